"""Attacks: what counts as a success, the budget, and a model that is left as it was found."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradfast.attacks import ATTACKS, AttackWarning, attack, budget_of, on_pixels
from gradfast.errors import InputError

pytest.importorskip("torchattacks")
pytest.importorskip("kornia")

LINF = ("fgsm", "bim", "pgd", "iterll")


class Colours(nn.Module):
    """Tells which of red, green and blue an image has most of, by way of a few layers and a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.conv.weight.data = torch.eye(3).view(3, 3, 1, 1) * 20
        self.bn = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.drop(self.bn(self.conv(x))).mean((2, 3))
        return out


@pytest.fixture
def model() -> nn.Module:
    return Colours().eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return 0.45 + 0.1 * torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels(model: nn.Module, images: Tensor) -> Tensor:
    """Right for all images but the first five."""
    y = model(images).argmax(1)
    y[:5] = (y[:5] + 1) % 3
    return y


@pytest.mark.parametrize("name", ATTACKS)
class TestEach:
    def test_success_is_right_before_and_wrong_after(
        self, name: str, model: nn.Module, images: Tensor, labels: Tensor
    ) -> None:
        result = attack(model, images, labels, name, batch_size=8)
        before, after = model(images).argmax(1), model(result.images).argmax(1)
        assert torch.equal(result.predictions_before, before)
        assert torch.equal(result.predictions_after, after)
        assert torch.equal(result.success, (before == labels) & (after != labels))
        assert not result.success[:5].any()
        assert torch.equal(result.images[:5], images[:5])
        assert result.rate > 0.9
        assert torch.equal(result.adversarial(), result.images[result.success])

    def test_stays_within_the_image_and_the_budget(
        self, name: str, model: nn.Module, images: Tensor, labels: Tensor
    ) -> None:
        result = attack(model, images, labels, name)
        assert 0 <= float(result.images.min()) <= float(result.images.max()) <= 1
        change = (result.images - images).flatten(1)
        assert torch.allclose(result.linf, change.abs().amax(1))
        assert torch.allclose(result.l2, change.norm(dim=1))
        assert {**budget_of(name), "seed": 0} == result.budget
        if name in LINF:
            assert float(result.linf.max()) <= 8 / 255 + 1e-6

    def test_same_seed_same_images(self, name: str, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        state = torch.get_rng_state()
        first = attack(model, images, labels, name, seed=3)
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(7)
        second = attack(model, images, labels, name, seed=3)
        assert torch.equal(first.images, second.images)
        if name in ("pgd", "semantic"):
            brief = {"steps": 1} if name == "pgd" else {}  # with more, all starts end in one corner here
            one, other = (attack(model, images, labels, name, seed=seed, **brief) for seed in (3, 4))
            assert not torch.equal(one.images, other.images)

    @pytest.mark.parametrize("training", [True, False])
    def test_leaves_the_model_as_it_was(
        self, name: str, training: bool, model: nn.Module, images: Tensor, labels: Tensor
    ) -> None:
        model.train(training)
        model.get_submodule("bn").eval()  # a mode of its own
        weight, bias = model.get_parameter("bn.weight"), model.get_parameter("bn.bias")
        bias.requires_grad_(False)
        weight.grad = torch.full((3,), 7.0)
        state = {key: value.clone() for key, value in model.state_dict().items()}
        modes = [module.training for module in model.modules()]
        given = images.clone()
        attack(on_pixels(model, 0.0, 1.0), images, labels, name)
        assert [module.training for module in model.modules()] == modes
        assert not bias.requires_grad
        assert weight.requires_grad
        assert torch.equal(weight.grad, torch.full((3,), 7.0))
        assert model.get_parameter("conv.weight").grad is None
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        assert torch.equal(images, given)
        assert not images.requires_grad


@pytest.mark.parametrize("name", ["fgsm", "bim", "iterll", "semantic"])
def test_does_not_depend_on_the_batches(name: str, model: nn.Module, images: Tensor, labels: Tensor) -> None:
    whole = attack(model, images, labels, name, batch_size=20)
    parts = attack(model, images, labels, name, batch_size=3)
    assert torch.allclose(whole.images, parts.images, atol=1e-6)


def test_prints_nothing(
    model: nn.Module, images: Tensor, labels: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    attack(model, images, labels, "iterll")
    assert capsys.readouterr() == ("", "")


def test_least_likely_goes_to_the_least_likely_class(
    model: nn.Module, images: Tensor, labels: Tensor
) -> None:
    result = attack(model, images, labels, "iterll", eps=0.3, steps=60)
    least = model(images).argmin(1)
    assert torch.equal(result.predictions_after[result.success], least[result.success])


def test_a_larger_eps_fools_more(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    small = attack(model, images, labels, "fgsm", eps=0.0005)
    assert small.rate < attack(model, images, labels, "fgsm", eps=0.05).rate


def test_fgsm_is_one_step_along_the_sign(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    x = images.clone().requires_grad_()
    F.cross_entropy(model(x), labels).backward()
    assert x.grad is not None
    result = attack(model, images, labels, "fgsm", eps=0.02)
    wanted = (images + 0.02 * x.grad.sign()).clamp(0, 1)
    assert torch.allclose(result.images[5:], wanted[5:])


class TestCarliniWagner:
    def test_is_nearer_than_one_constant_without_a_search(
        self, model: nn.Module, images: Tensor, labels: Tensor
    ) -> None:
        torchattacks = pytest.importorskip("torchattacks")
        right = model(images).argmax(1) == labels
        x, y = images[right], labels[right]
        result = attack(model, x, y, "cw")
        other = torchattacks.CW(model)(x, y).detach()
        fooled = model(other).argmax(1) != y
        assert result.success.all()
        assert fooled.all()
        assert float(result.l2.median()) < 0.8 * float((other - x).flatten(1).norm(dim=1).median())

    def test_finds_the_boundary_of_a_linear_model(self, images: Tensor, labels: Tensor) -> None:
        """The nearest image over a hyperplane is the margin over its normal's norm away."""
        model = Colours().eval()
        x, y = images[5:], labels[5:]
        with torch.no_grad():
            logits = model(x)
        colours = F.one_hot(y, 3).float()
        weight = 20 / (1 + model.bn.eps) ** 0.5 / 64  # of one pixel in the logit of its colour
        margin = (logits * colours).sum(1) - logits.masked_fill(colours.bool(), -torch.inf).amax(1)
        least = margin / (2 * 64 * weight**2) ** 0.5
        found = attack(model, x, y, "cw", searches=8, steps=300, lr=0.001).l2
        assert (found >= least * 0.999).all()
        assert (found <= least * 1.1 + 1e-3).all()

    def test_kappa_asks_for_a_margin(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        result = attack(model, images, labels, "cw", kappa=0.5)
        logits = model(result.adversarial())
        ahead = logits.amax(1) - logits.gather(1, labels[result.success, None])[:, 0]
        assert (ahead > 0.499).all()

    def test_each_image_has_its_own_search(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        whole = attack(model, images, labels, "cw", batch_size=20)
        parts = attack(model, images, labels, "cw", batch_size=3)
        assert torch.allclose(whole.l2, parts.l2, rtol=0.02)

    def test_black_and_white_stay_finite(self, model: nn.Module, images: Tensor) -> None:
        x = images.clone()
        x[:, :, 0], x[:, :, 1] = 0, 1  # the same in all colours
        result = attack(model, x, model(x).argmax(1), "cw")
        assert result.success.all()
        assert result.images.isfinite().all()
        assert 0 <= float(result.images.min()) <= float(result.images.max()) <= 1

    def test_what_cannot_be_fooled_comes_back_as_it_was(self, images: Tensor) -> None:
        class Constant(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x.flatten(1)[:, :3] * 0 + torch.tensor([1.0, 0.0, 0.0])

        with pytest.warns(AttackWarning, match="cw .* fooled none of the 20 images"):
            result = attack(Constant(), images, torch.zeros(20, dtype=torch.int64), "cw", steps=5)
        assert torch.equal(result.images, images)


def test_hue_and_saturation_keep_the_value(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    result = attack(model, images, labels, "semantic")
    assert torch.allclose(result.images.amax(1), images.amax(1), atol=1e-5)


def test_normalisation_is_part_of_the_model(images: Tensor) -> None:
    model = Colours().eval()
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    x = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.allclose(on_pixels(model, mean, std)(images), model(x))


class TestNeverSucceeds:
    def test_is_flagged_and_has_no_images(self, images: Tensor) -> None:
        class Constant(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.logits = nn.Parameter(torch.tensor([1.0, 0.0, 0.0]))

            def forward(self, x: Tensor) -> Tensor:
                return x.flatten(1)[:, :3] * 0 + self.logits

        with pytest.warns(AttackWarning, match=r"fgsm \(eps 0.03137, seed 0\) fooled none of the 20 images"):
            result = attack(Constant(), images, torch.zeros(20, dtype=torch.int64), "fgsm")
        assert result.rate == 0
        with pytest.raises(InputError, match="wanted a larger budget"):
            result.adversarial()

    def test_nothing_was_right(self, model: nn.Module, images: Tensor) -> None:
        wrong = (model(images).argmax(1) + 1) % 3
        with pytest.warns(AttackWarning, match="gets all 20 wrong as they are"):
            result = attack(model, images, wrong, "pgd")
        assert result.rate != result.rate  # NaN
        assert torch.equal(result.images, images)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "resnet"}, "model: got 'resnet'"),
        ({"model": nn.Conv2d(3, 4, 1)}, r"model: returned a float32 tensor of shape \[2, 4, 8, 8\]"),
        ({"name": "deepfool"}, "name: got 'deepfool'"),
        ({"images": torch.zeros(3, 8, 8)}, "images: got a float32 tensor"),
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, "images: got a uint8 tensor"),
        ({"images": torch.zeros(0, 3, 8, 8)}, "images: got a float32 tensor"),
        ({"images": torch.full((2, 3, 8, 8), -0.1)}, r"images: got values from -0\.1.*see on_pixels"),
        ({"images": torch.full((2, 3, 8, 8), float("nan"))}, "images: got values from nan"),
        ({"name": "semantic", "images": torch.zeros(2, 1, 8, 8)}, r"wanted a float tensor \[n, 3, H, W\]"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels: got an int64 tensor"),
        ({"labels": torch.zeros(2)}, "labels: got a float32 tensor"),
        ({"labels": torch.tensor([0, -1])}, "labels: .* from -1"),
        ({"labels": torch.tensor([0, 3])}, "labels: got 3; wanted 0 to 2"),
        ({"labels": [0, 1]}, r"labels: got \[0, 1\]"),
        ({"eps": 0.0}, "eps: got 0.0; wanted above 0"),
        ({"eps": 8.0}, "eps: got 8.0; wanted above 0, at most 1"),
        ({"eps": float("inf")}, "eps: got inf"),
        ({"eps": "8/255"}, "eps: got '8/255'"),
        ({"name": "cw", "eps": 0.1}, "eps: cw has no such setting, it has c, kappa, searches, steps, lr"),
        ({"name": "bim", "step": 3}, "step: bim has no such setting.*nearest: steps"),
        ({"name": "bim", "steps": 0}, "steps: got 0"),
        ({"name": "bim", "steps": 2.0}, "steps: got 2.0"),
        ({"name": "cw", "searches": 0}, "searches: got 0"),
        ({"name": "cw", "kappa": -1.0}, "kappa: got -1.0; wanted at least 0"),
        ({"name": "semantic", "trials": True}, "trials: got True"),
        ({"seed": -1}, "seed: got -1"),
        ({"seed": 1.0}, "seed: got 1.0"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"index": torch.tensor([0.0, 1.0])}, "index: got a float32 tensor"),
        ({"index": torch.tensor([0, -1])}, "index: got an int64 tensor"),
    ],
)
def test_refuses(changed: dict[str, Any], message: str, model: nn.Module) -> None:
    given: dict[str, Any] = {
        "model": model,
        "images": torch.full((2, 3, 8, 8), 0.5),
        "labels": torch.tensor([0, 1]),
        "name": "fgsm",
        **changed,
    }
    first = [given.pop(key) for key in ("model", "images", "labels", "name")]
    with pytest.raises(InputError, match=message):
        attack(*first, **given)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ("a", 1.0, "mean: got 'a'"),
        (0.0, 0.0, "std: got 0.0 .*; wanted positive"),
        (float("nan"), 1.0, "mean: got nan"),
        (0.0, (1.0, -1.0, 1.0), "std: got"),
    ],
)
def test_normalisation_refuses(mean: Any, std: Any, message: str, model: nn.Module) -> None:
    with pytest.raises(InputError, match=message):
        on_pixels(model, mean, std)


@pytest.mark.parametrize(("name", "library"), [("pgd", "torchattacks"), ("semantic", "kornia")])
def test_without_the_library_says_what_to_install(
    name: str, library: str, model: nn.Module, images: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"{library}.color", raising=False)
    with pytest.raises(InputError, match=f"pip install {library}"):
        attack(model, images, labels, name)
