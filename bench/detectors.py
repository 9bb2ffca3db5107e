"""Every detector on CIFAR-10 against Tiny ImageNet, small: is each the right way up, and does it rank as pytorch-ood's own?

    python -m bench.detectors ../shared/data

ResNet-20, images 500 to 999 of each set tested; detectors that learn from outliers saw images 0 to 499 of both sets, the
others training images of CIFAR-10 alone.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gradfast import FeatureExtractor, Features
from gradfast.data import Preprocess, open_images
from gradfast.detectors import Purview, evaluate, make_source, run_sources, synthetic_outliers
from gradfast.detectors.registry import METHODS, NORMS
from gradfast.detectors.sources import SOURCES, Tap, fit_sources
from gradfast.models import load_model

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
TRAINING, NORM_TRAINING, MADE, TESTED = 5000, 2000, 1000, 500

Batches = list[tuple[Tensor, Tensor]]


def main(data: Path) -> None:
    """Prints one line per method, then one per implementation in pytorch-ood."""
    model = load_model("cifar_resnet20", weights=data / "cifar10-resnet20.safetensors")
    train, test_in, test_out = (
        _images(data / name, n)
        for name, n in (
            ("cifar10-train.parquet", TRAINING),
            ("cifar10-test.parquet", 2 * TESTED),
            ("tiny-imagenet-32-val.parquet", 2 * TESTED),
        )
    )
    tap = Tap(model)
    sources = [make_source(name, model, std=STD.tolist(), tap=tap) for name in SOURCES]
    fit_sources(sources, _batches(train))
    columns = [run_sources(sources, _batches(images)) for images in (test_in, test_out)]
    for info in METHODS.values():
        if info.reads != NORMS:
            known, unknown = (found[info.reads] for found in columns)
            # What does not learn was fitted with its source: here it only gets a threshold.
            _report(info.title, info.learns, info.make, known[:TESTED], known, unknown)
    _pytorch_ood(model, tap, train, test_in, test_out)
    for contrast in ("all-ones", "one-hot"):
        extractor = FeatureExtractor(model, contrast=contrast)
        some = (train[0][:NORM_TRAINING], train[1][:NORM_TRAINING])
        norms = [_norms(extractor, images) for images in (some, test_in, test_out)]
        for info in METHODS.values():
            if info.reads == NORMS:
                _report(f"{info.title}, {contrast}", info.learns, info.make, *norms)
        pixels = (train[0][-MADE:] * STD.view(3, 1, 1) + MEAN.view(3, 1, 1)).clamp(0, 1)
        made = (synthetic_outliers(pixels) - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
        outliers = _norms(extractor, (made, torch.full((len(made),), -1)))
        detector = Purview().fit(norms[0], outliers)
        known, unknown = (detector.score(found[TESTED:]) for found in norms[1:])
        _line(f"Purview, {contrast}, synthetic outliers", "no", known, unknown)


def _report(
    title: str, learns: bool, make: Callable[[], Any], train: Any, test_in: Any, test_out: Any
) -> None:
    detector = make().fit(test_in[:TESTED], test_out[:TESTED]) if learns else make().fit(train)
    _line(
        title, "yes" if learns else "no", detector.score(test_in[TESTED:]), detector.score(test_out[TESTED:])
    )


def _line(title: str, outliers: str, known: NDArray[np.float64], unknown: NDArray[np.float64]) -> None:
    metrics = evaluate(known, unknown)
    print(f"| {title} | {outliers} | {metrics.auroc:.3f} | {metrics.fpr95:.3f} |", flush=True)


def _pytorch_ood(model: nn.Module, tap: Tap, train: Any, test_in: Any, test_out: Any) -> None:
    from pytorch_ood import detector as theirs

    class Encoder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return tap(x, record=torch.is_grad_enabled()).penultimate

    z = torch.cat([tap(x).penultimate for x, _ in _batches(train)])
    head, std = tap.head, STD.tolist()
    detectors = {
        "MaxSoftmax": theirs.MaxSoftmax(model),
        "ODIN": theirs.ODIN(model, norm_std=std),
        "EnergyBased": theirs.EnergyBased(model),
        "Mahalanobis": theirs.Mahalanobis(Encoder()).fit_features(z, train[1]),
        "ViM": theirs.ViM(Encoder(), z.shape[1] // 2, head.weight, head.bias).fit_features(z, train[1]),
        "KNN": theirs.KNN(Encoder()).fit_features(z, train[1]),
        "GradNorm": theirs.GradNorm(model, param_filter=lambda name: name == "linear.weight"),
    }
    for name, detector in detectors.items():
        known, unknown = (
            np.concatenate(
                [detector.predict(x).detach().numpy() for x, _ in _batches(images)][TESTED // 100 :]
            )
            for images in (test_in, test_out)
        )
        _line(f"pytorch-ood {name}", "no", known, unknown)


def _images(path: Path, n: int) -> tuple[Tensor, Tensor]:
    images = open_images(path, Preprocess(mean=tuple(MEAN.tolist()), std=tuple(STD.tolist())), limit=n)
    pairs = [images[i] for i in range(n)]
    return torch.stack([x for x, _ in pairs]), torch.tensor([y for _, y in pairs])


def _batches(images: tuple[Tensor, Tensor]) -> Batches:
    return list(zip(*(part.split(100) for part in images), strict=True))


def _norms(extractor: FeatureExtractor, images: tuple[Tensor, Tensor]) -> Features:
    return extractor.extract(images, progress=False)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
