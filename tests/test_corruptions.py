"""Corruptions: they grow with the level, and belong to the sample and not to the batch."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from gradfast.corruptions import CORRUPTIONS, LEVELS, corrupt
from gradfast.errors import InputError

pytest.importorskip("kornia")


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Smooth coloured pictures of 32x32 pixels in 8 bits."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(12, 3, 6, 6, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)
    return (fine * 255).round() / 255


@pytest.mark.parametrize("name", CORRUPTIONS)
class TestEach:
    def test_distance_to_the_clean_image_grows_with_the_level(self, name: str, images: Tensor) -> None:
        distances = [float((corrupt(images, name, level) - images).square().mean()) for level in LEVELS]
        assert distances == sorted(distances)
        assert distances[0] > 0
        assert distances[4] > 2 * distances[0]

    def test_parameters_grow_with_the_level(self, name: str, images: Tensor) -> None:
        levels = CORRUPTIONS[name].levels
        assert all(low < high for low, high in pairwise(levels))

    def test_does_not_depend_on_the_batch(self, name: str, images: Tensor) -> None:
        index = torch.tensor([7, 2, 2**40, 0, 11, 3])
        whole = corrupt(images[:6], name, 3, seed=5, index=index)
        order = torch.tensor([4, 0, 5])
        assert torch.equal(corrupt(images[order], name, 3, seed=5, index=index[order]), whole[order])
        for i in range(6):
            assert torch.equal(
                corrupt(images[i : i + 1], name, 3, seed=5, index=index[i : i + 1])[0], whole[i]
            )

    def test_is_what_a_file_of_eight_bits_holds(self, name: str, images: Tensor) -> None:
        out = corrupt(images, name, 5)
        assert out.dtype == torch.float32
        assert out.shape == images.shape
        assert 0 <= float(out.min()) <= float(out.max()) <= 1
        assert torch.equal(out, (out * 255).round().to(torch.uint8).float() / 255)

    def test_leaves_input_and_random_state(self, name: str, images: Tensor) -> None:
        before, state = images.clone(), torch.get_rng_state()
        corrupt(images, name, 2, seed=3)
        assert torch.equal(images, before)
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 3, 28, 40), (1, 3, 1, 1), (0, 3, 8, 8)])
    def test_any_size(self, name: str, images: Tensor, shape: tuple[int, ...]) -> None:
        assert corrupt(torch.full(shape, 0.25), name, 5).shape == shape


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "decolor"])
def test_grey_is_what_grey_in_colour_is(name: str, images: Tensor) -> None:
    if name == "noise":  # of its own in each channel
        assert corrupt(images[:, :1], name, 3).shape == (12, 1, 32, 32)
        return
    grey = images[:, :1]
    coloured = corrupt(grey.expand(-1, 3, -1, -1), name, 3)
    assert torch.allclose(corrupt(grey, name, 3), coloured.mean(1, keepdim=True), atol=1.5 / 255)


@pytest.mark.parametrize("name", ["noise", "dirty_lens", "snow", "haze"])
def test_seed_changes_what_is_random(name: str, images: Tensor) -> None:
    assert not torch.equal(corrupt(images, name, 3, seed=0), corrupt(images, name, 3, seed=1))
    assert torch.equal(corrupt(images, name, 3, seed=1), corrupt(images, name, 3, seed=1))


def test_noise_has_its_standard_deviation() -> None:
    grey = torch.full((4, 3, 64, 64), 0.5)
    added = corrupt(grey, "noise", 5) - grey
    assert float(added.std()) == pytest.approx(0.10, rel=0.02)
    assert float(added.mean()) == pytest.approx(0, abs=0.002 + 0.5 / 255)


def test_a_stop_doubles_the_light() -> None:
    def linear(x: float) -> float:
        return ((x + 0.055) / 1.055) ** 2.4

    x = torch.full((1, 3, 2, 2), 0.4)
    assert linear(float(corrupt(x, "exposure", 2)[0, 0, 0, 0])) == pytest.approx(2 * linear(0.4), rel=0.01)


def test_blurs_keep_flat_images_and_the_mean(images: Tensor) -> None:
    flat = torch.full((1, 3, 32, 32), 102 / 255)
    for name in ("lens_blur", "gaussian_blur"):
        assert torch.equal(corrupt(flat, name, 5), flat)
    point = torch.zeros(1, 1, 33, 33)
    point[..., 16, 16] = 1
    assert float(corrupt(point, "lens_blur", 5).sum()) == pytest.approx(1, abs=0.1)


def test_full_decolorization_is_grey(images: Tensor) -> None:
    out = corrupt(images, "decolor", 5)
    assert torch.equal(out[:, 0], out[:, 1])
    assert torch.equal(out[:, 0], out[:, 2])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "fog"}, "name: got 'fog'"),
        ({"level": 0}, "level: got 0"),
        ({"level": 6}, "level: got 6"),
        ({"level": 2.5}, "level: got 2.5"),
        ({"level": True}, "level: got True"),
        ({"seed": -1}, "seed: got -1"),
        ({"seed": 0.5}, "seed: got 0.5"),
        ({"images": torch.zeros(3, 8, 8)}, "images: got a float32 tensor"),
        ({"images": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}, "images: got a uint8 tensor"),
        ({"images": torch.zeros(1, 4, 8, 8)}, "images: got a float32 tensor"),
        ({"images": torch.full((1, 3, 8, 8), 1.5)}, r"images: got values from 1\.5"),
        ({"images": torch.full((1, 3, 8, 8), float("nan"))}, "images: got values from nan"),
        ({"images": "x"}, "images: got 'x'"),
        ({"index": torch.zeros(2, dtype=torch.int64)}, r"index: got an int64 tensor of shape \[2\]"),
        ({"index": torch.zeros(1)}, "index: got a float32 tensor"),
        ({"index": torch.tensor([-1])}, "index: got -1"),
        ({"name": "decolor", "images": torch.zeros(1, 1, 8, 8)}, r"wanted a float tensor \[n, 3, H, W\]"),
    ],
)
def test_refuses(changed: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"images": torch.zeros(1, 3, 8, 8), "name": "noise", "level": 1, **changed}
    with pytest.raises(InputError, match=message):
        corrupt(given.pop("images"), given.pop("name"), given.pop("level"), **given)


def test_without_kornia_says_what_to_install(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(InputError, match="pip install kornia"):
        corrupt(images, "gaussian_blur", 1)
    assert corrupt(images, "noise", 1).shape == images.shape
