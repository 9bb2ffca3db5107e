"""`gradfast demo`: a network that knows eight digits, and how gradient norms tell what it does not know."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradfast.data.digits import corrupt, load_digits_split, photo_textures
from gradfast.demo.network import DigitNet, accuracy, train
from gradfast.detectors import MaximumSoftmax, Purview
from gradfast.detectors.evaluation import Method, Outcome, run_protocols
from gradfast.extractor import FeatureExtractor
from gradfast.features import Features
from gradfast.report import Gallery, NormProfile, detection_page, image_strip, write_page
from gradfast.report.theme import INSIDE, OUTSIDE
from gradfast.version import __version__

__all__ = ["DemoResult", "run_demo"]

_HELD_OUT = (8, 9)
_CORRUPTED = {"noisy": "noise", "blurred": "blur", "faint": "contrast", "occluded": "occlusion"}
_SEVERITY = 3
_EXAMPLES = 8
_ONE_HOT, _ALL_ONES, _SOFTMAX = "Purview, one-hot", "Purview, all-ones", "maximum softmax"

Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoResult:
    """All outcomes, where the report is, and how well the network does what it was trained for."""

    outcomes: tuple[Outcome, ...]
    report: Path
    test_accuracy: float
    seconds: float


def run_demo(
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    epochs: int = 30,
    splits: int = 5,
    say: Say = lambda line: None,
) -> DemoResult:
    """Trains, extracts, fits, tests and writes `report.html` to the directory `out`.

    `epochs` are those of the training, `splits` the random halves that H is fitted to and tested on; `say` is
    told each step as it is done.
    """
    start = time.perf_counter()
    split = load_digits_split(_HELD_OUT, seed=seed)
    model = train(*split.train, epochs=epochs, seed=seed)
    test_accuracy = accuracy(model, *split.test)
    known = f"digits {split.digits[0]} to {split.digits[-1]}"
    say(
        f"trained on {len(split.train[1])} images of {known}; {test_accuracy:.1%} of {len(split.test[1])} others right"
    )

    outside = _outlier_sets(split.test[0], split.held_out[0], seed)
    sets = {known: split.test[0], **outside}
    began = time.perf_counter()
    one_hot = _extract(model, sets, "one-hot")
    all_ones = _extract(model, sets, "all-ones")
    norms = sum(int(np.prod(f.shape)) for features in (one_hot, all_ones) for f in features.values())
    took = time.perf_counter() - began
    say(f"{norms:,} exact gradient norms of {sum(map(len, sets.values())):,} images in {took:.1f} s")

    purview = partial(Purview, folds=None)  # the metrics need no threshold
    methods = [
        _method(_ONE_HOT, purview, one_hot, known),
        _method(_ALL_ONES, purview, all_ones, known),
        _method(_SOFTMAX, MaximumSoftmax, all_ones, known, learns=False),
    ]
    outcomes = run_protocols(methods, seeds=range(seed, seed + splits))
    say(f"H fitted and tested on {splits} random splits of {len(outside)} outlier sets, two protocols")

    page = detection_page(
        "What a digit classifier does not know",
        _lead(known),
        outcomes,
        NormProfile.of(
            "The all-ones contrast",
            all_ones[known].layers,
            known,
            {name: features.values for name, features in all_ones.items()},
        ),
        shown_method=_ONE_HOT,
        gallery=_gallery(known, sets),
        facts=_facts(model, sets, test_accuracy, seed, splits),
        command=f"gradfast demo --seed {seed}",
    )
    report = write_page(page, Path(out) / "report.html")
    return DemoResult(tuple(outcomes), report, test_accuracy, time.perf_counter() - start)


def _outlier_sets(known: Tensor, held_out: Tensor, seed: int) -> dict[str, Tensor]:
    digits = " and ".join(map(str, _HELD_OUT))
    corrupted = {
        f"{name} digits": corrupt(known, kind, _SEVERITY, seed=seed) for name, kind in _CORRUPTED.items()
    }
    return {
        f"digits {digits}": held_out,
        "photo textures": photo_textures(len(known), seed=seed),
        **corrupted,
    }


def _extract(model: DigitNet, sets: dict[str, Tensor], contrast: str) -> dict[str, Features]:
    extractor = FeatureExtractor(model, contrast=contrast, batch_size=256)
    return {name: extractor.extract(x, progress=False) for name, x in sets.items()}


def _method(
    name: str,
    detector: Callable[[], Purview | MaximumSoftmax],
    features: dict[str, Features],
    known: str,
    learns: bool = True,
) -> Method:
    outside = {other: f for other, f in features.items() if other != known}
    return Method(name, detector, features[known], outside, learns=learns)


def _gallery(known: str, sets: dict[str, Tensor]) -> Gallery:
    about = (
        f"Images that the network has not been trained on. {known.capitalize()} are what it knows; the corrupted"
        " sets are versions of these same images, split between fitting and testing in the same way, so that no"
        " image is on both sides.",
        "All are 8 x 8 pixels in the digits' own 17 grey levels, so no set gives itself away by its format.",
    )
    roles = (INSIDE, *OUTSIDE)
    strips = [
        image_strip(name, roles[i % len(roles)], _pixels(x[:_EXAMPLES]))
        for i, (name, x) in enumerate(sets.items())
    ]
    return Gallery(about, strips)


def _lead(known: str) -> list[str]:
    held_out = " and ".join(map(str, _HELD_OUT))
    return [
        f"A small network learned {known} and was then shown images that it had never seen: more of these digits,"
        f" and six kinds of images that it does not know, among them the digits {held_out}. For each image,"
        " gradfast computed how large a change of every layer's weights the network would need to take the"
        " image for each class (the one-hot contrast) or for all classes at once (all-ones): the exact norm of"
        " its gradient. A classifier H of these norms, the Purview detector, says which images are foreign.",
    ]


def _facts(
    model: DigitNet, sets: dict[str, Tensor], test_accuracy: float, seed: int, splits: int
) -> list[tuple[str, str]]:
    parameters = sum(p.numel() for p in model.parameters())
    tensors = len(list(model.parameters()))
    return [
        (
            "network",
            f"{parameters:,} weights in {tensors} parameter tensors; {test_accuracy:.1%} of unseen digits right",
        ),
        ("images", ", ".join(f"{name}: {len(x)}" for name, x in sets.items())),
        (
            "features",
            "squared gradient norms of every parameter tensor; one-hot: cross entropy, one row per class;"
            " all-ones: binary cross entropy, one row",
        ),
        ("classifier H", "log scale, standardisation, logistic regression (scikit-learn)"),
        (
            "splits",
            f"{splits} random halves to fit H on and to test on, seeds {seed} to {seed + splits - 1}",
        ),
        ("corruptions", f"severity {_SEVERITY} of 5"),
        ("sources", "scikit-learn's digits (UCI, Alpaydin & Kaynak) and its two sample photographs"),
        ("versions", f"gradfast {__version__}, torch {torch.__version__}"),
    ]


def _pixels(x: Tensor) -> NDArray[np.uint8]:
    return (x[:, 0] * 255).round().to(torch.uint8).numpy()
