"""Real images: every score is the right way up, in the neighbourhood of the literature's ranking."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gradfast.data import Preprocess, open_images
from gradfast.detectors import Purview, StreamScorer, evaluate, make_source, run_sources, synthetic_outliers
from gradfast.detectors.sources import SOURCES, Tap, fit_sources
from gradfast.models import load_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

pytestmark = [pytest.mark.shared, pytest.mark.slow]


def images(path: Path, start: int, n: int) -> tuple[Tensor, Tensor]:
    found = open_images(path, Preprocess(mean=MEAN, std=STD), limit=start + n)
    pairs = [found[i] for i in range(start, start + n)]
    return torch.stack([x for x, _ in pairs]), torch.tensor([y for _, y in pairs])


def batches(pair: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(*(part.split(100) for part in pair), strict=True))


@pytest.fixture(scope="module")
def model(shared: Path) -> torch.nn.Module:
    return load_model("cifar_resnet20", weights=shared / "cifar10-resnet20.safetensors")


@pytest.fixture(scope="module")
def known(shared: Path) -> tuple[Tensor, Tensor]:
    return images(shared / "cifar10-test.parquet", 0, 200)


@pytest.fixture(scope="module")
def unknown(shared: Path) -> tuple[Tensor, Tensor]:
    return images(shared / "tiny-imagenet-32-val.parquet", 0, 200)


def test_scores_are_the_right_way_up(
    model: torch.nn.Module, known: tuple[Tensor, Tensor], unknown: tuple[Tensor, Tensor], shared: Path
) -> None:
    tap = Tap(model)
    sources = [make_source(name, model, std=STD, tap=tap) for name in SOURCES]
    fit_sources(sources, batches(images(shared / "cifar10-train.parquet", 0, 1000)))
    inside, outside = (run_sources(sources, batches(pair)) for pair in (known, unknown))
    auroc = {
        name: evaluate(inside[name].values[:, 0], outside[name].values[:, 0]).auroc
        for name in SOURCES
        if inside[name].shape[1] == 1
    }
    # The last layer's Mahalanobis distance is near chance here, in pytorch-ood's implementation too.
    assert all(value > (0.45 if name == "mahalanobis" else 0.6) for name, value in auroc.items()), auroc
    assert auroc["odin"] > auroc["energy"] > auroc["max_softmax"] > 0.7
    assert auroc["mahalanobis_p"] > auroc["mahalanobis"]


def test_outliers_made_of_training_images_tell_others(
    model: torch.nn.Module, known: tuple[Tensor, Tensor], unknown: tuple[Tensor, Tensor], shared: Path
) -> None:
    x, y = images(shared / "cifar10-train.parquet", 0, 800)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    made = (synthetic_outliers((x[400:] * std + mean).clamp(0, 1)) - mean) / std
    loader = [*batches((x[:400], y[:400])), *batches((made, torch.full((400,), -1)))]
    scorer = StreamScorer({"purview": Purview().bind(model, contrast="all-ones").fit(loader)})
    found = [scorer.run(batches(pair))["purview"] for pair in (known, unknown)]
    assert evaluate(*found).auroc > 0.82
