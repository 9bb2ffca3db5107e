"""How the time of `gradfast.grad_norms` grows with the samples B, the classes N, the positions T and the depth.

The points of a curve are visited in turn, round after round. A round is what pytest-benchmark times; the medians of the points
are in extra_info.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from math import inf

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import gradfast
from bench.models import language_model, small_image_resnet18
from gradfast.engine import basis
from gradfast.models import cifar_resnet

Point = tuple[int, Callable[[], object]]


def samples() -> Iterator[Point]:
    model = small_image_resnet18().eval()
    for b in (1, 2, 4, 8, 16):
        yield b, partial(gradfast.grad_norms, model, torch.randn(b, 3, 32, 32))


def classes() -> Iterator[Point]:
    model, x = small_image_resnet18(1000).eval(), torch.randn(1, 3, 32, 32)
    for n in (1, 10, 50, 100, 250, 500, 1000):
        yield n, partial(gradfast.grad_norms, model, x, classes=range(n))


def tokens() -> Iterator[Point]:
    model = language_model(width=256, heads=4, vocabulary=1000).eval()
    for t in (32, 64, 128, 256, 512, 1024):
        yield t, partial(gradfast.grad_norms, model, torch.randint(1000, (1, t)), classes=range(10))


def pixels() -> Iterator[Point]:
    model = small_image_resnet18().eval()
    for side in (16, 24, 32, 48, 64):
        yield side * side, partial(gradfast.grad_norms, model, torch.randn(1, 3, side, side))


def depth() -> Iterator[Point]:
    for blocks in (1, 3, 5, 9, 18):
        yield (
            6 * blocks + 2,
            partial(gradfast.grad_norms, cifar_resnet.CifarResNet(blocks).eval(), torch.randn(4, 3, 32, 32)),
        )


CURVES = {
    "samples": ("B, samples", "ResNet-18 at 32 x 32, 10 classes", samples),
    "classes": ("N, classes (of 1000; the head's input has 512)", "ResNet-18 at 32 x 32, 1 sample", classes),
    "tokens": ("T, tokens", "transformer block of width 256, 1 sample, 10 classes", tokens),
    "pixels": ("T, pixels", "ResNet-18, 1 sample, 10 classes", pixels),
    "depth": ("layers", "CIFAR ResNet of width 16, 4 samples, 10 classes", depth),
}


@pytest.mark.parametrize("curve", CURVES)
def test_scaling(
    benchmark: BenchmarkFixture, record: Callable[..., None], curve: str, seconds: float, limit: float
) -> None:
    axis, title, make = CURVES[curve]
    torch.manual_seed(0)
    points = list(make())
    times: dict[int, list[float]] = {at: [] for at, _ in points}

    def visit() -> float:
        start = time.perf_counter()
        for at, call in points:
            began = time.perf_counter()
            call()
            times[at].append(time.perf_counter() - began)
        return time.perf_counter() - start

    warm = visit()
    for found in times.values():
        found.clear()
    share = limit / len(CURVES) - warm
    rounds = min(7, max(1, int(min(max(seconds, 2 * warm), share) / warm)))
    benchmark.pedantic(visit, rounds=rounds, iterations=1)
    record(
        kind="scaling",
        curve=curve,
        axis=axis,
        title=title,
        points=[[at, statistics.median(found)] for at, found in times.items()],
    )


BASIS = {
    "ResNet-18 at 32 x 32, F = 512": (small_image_resnet18, 512, (1, 1000 / 512)),
    "CIFAR ResNet-20, F = 64": (cifar_resnet.resnet20, 64, (1, 1.5, 2, 4, 1000 / 64)),
}


@pytest.mark.parametrize("title", BASIS)
def test_basis(
    benchmark: BenchmarkFixture,
    record: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    title: str,
    limit: float,
) -> None:
    """Every row against a basis of F rows, for N of 1000 classes and one sample."""
    make, width, ratios = BASIS[title]
    torch.manual_seed(0)
    model, x = make(1000).eval(), torch.randn(1, 3, 32, 32)
    times: dict[tuple[int, float], list[float]] = {
        point: [] for point in itertools.product([round(width * r) for r in ratios], (inf, 0))
    }

    def visit() -> None:
        for (n, least), found in times.items():
            monkeypatch.setattr(basis, "LEAST_RATIO", least)
            began = time.perf_counter()
            gradfast.grad_norms(model, x, classes=range(n))
            found.append(time.perf_counter() - began)

    began = time.perf_counter()
    visit()
    warm = time.perf_counter() - began
    for found in times.values():
        found.clear()
    rounds = max(1, min(5, int(limit / len(BASIS) / 4 / warm)))
    benchmark.pedantic(visit, rounds=rounds, iterations=1)
    middle = {point: statistics.median(found) for point, found in times.items()}
    record(
        kind="basis",
        title=title,
        width=width,
        points=[[n, middle[n, inf], middle[n, 0]] for n, least in times if least == 0],
    )
