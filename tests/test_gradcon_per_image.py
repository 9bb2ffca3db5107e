"""A constraint on each image's gradient: against one image at a time, and what it cannot do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradfast.errors import InputError, ModelError
from gradfast.gradcon import (
    ConvAutoencoder,
    ConvVAE,
    GradConLoss,
    GradConScorer,
    GradConTrainer,
    TrainingSettings,
    load_scorer,
    per_image,
)
from gradfast.gradcon.per_image import image_gradients

SIZE = (8, 8)


class Decoded(nn.Module):
    """An encoder to ``width`` features, and a decoder from ``grid`` of them to images."""

    def __init__(self, decoder: nn.Module, grid: tuple[int, ...] = (4, 2, 2)) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, math.prod(grid)), nn.Unflatten(1, grid))
        self.decoder = decoder

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.encoder(x)).view_as(x)
        return out


class Shared(nn.Module):
    """One convolution, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(16, 64)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.last(self.twice(self.twice(h).tanh()).flatten(1))
        return out


class Squared(nn.Module):
    """A weight that is not used as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 16) / 4)

    def forward(self, h: Tensor) -> Tensor:
        return F.linear(h.flatten(1), self.weight.square())


class Blocked(torch.autograd.Function):
    """The same values without a gradient."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: object, inputs: object, output: object) -> None:
        pass

    @staticmethod
    def backward(ctx: object, g: Tensor) -> None:  # type: ignore[override]
        return None

    @staticmethod
    def vmap(info: object, dims: tuple[int | None], x: Tensor) -> tuple[Tensor, int | None]:
        return x.clone(), dims[0]


class Cut(nn.Module):
    """A layer that no gradient reaches before one that it does."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.last = nn.Linear(16, 8), nn.Linear(16, 64)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.last(h) + Blocked.apply(self.before(h)).sum(1, keepdim=True)
        return out


def _flat(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(64))


# Decoders whose gradients are taken from factors, and such as torch.func.vmap has to map.
KNOWN = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 64, bias=False)),
    "convolution": lambda: _flat(nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2)),
    "many positions": lambda: nn.Sequential(
        nn.Upsample(scale_factor=4), nn.Conv2d(4, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 1, 1)
    ),
    "transposed": lambda: _flat(
        nn.ConvTranspose2d(4, 3, (3, 4), stride=(2, 3), padding=1, output_padding=(1, 2))
    ),
    "inplace": lambda: nn.Sequential(
        nn.ConvTranspose2d(4, 3, 2, 2), nn.ReLU(inplace=True), nn.ConvTranspose2d(3, 1, 2, 2)
    ),
}
MAPPED = {
    "groups": lambda: _flat(nn.Conv2d(4, 4, 1, groups=2)),
    "one dimension": lambda: _flat(nn.Flatten(2), nn.Conv1d(4, 4, 3)),
    "shared": Shared,
    "by position": lambda: _flat(nn.Linear(2, 3)),
    "squared": Squared,
}  # fmt: skip


def images(n: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(n, 1, *SIZE, generator=torch.Generator().manual_seed(3), dtype=dtype)


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batches whose gradients were formed by torch.func.vmap."""
    seen: list[int] = []

    def counted(model: nn.Module, x: Tensor, weights: Mapping[str, Tensor]) -> object:
        seen.append(len(x))
        return image_gradients(model, x, weights)

    monkeypatch.setattr(per_image, "image_gradients", counted)
    return seen


def trained(model: nn.Module, **options: object) -> GradConLoss:
    """A loss that has seen one batch, so that there is a reference."""
    criterion = GradConLoss(model, per_image=True, **options)  # type: ignore[arg-type]
    criterion(images(dtype=next(model.parameters()).dtype)).total.backward()
    model.zero_grad()
    return criterion


def one_by_one(model: nn.Module, criterion: GradConLoss, x: Tensor) -> Tensor:
    """The total, from plain autograd, an image at a time."""
    weights = dict(model.named_parameters())
    reference = criterion.reference.as_dict()
    errors, cosines = [], []
    for image in x.split(1):
        error = F.mse_loss(model(image), image)
        found = torch.autograd.grad(error, [weights[n] for n in reference], create_graph=True)
        errors.append(error)
        cosines += [
            F.cosine_similarity(g.flatten(), r.flatten(), dim=0)
            for g, r in zip(found, reference.values(), strict=True)
        ]
    return torch.stack(errors).mean() - criterion.weight * torch.stack(cosines).mean()


def one_constraint(model: nn.Module, criterion: GradConLoss, x: Tensor) -> Tensor:
    """The constraint alone, an image at a time."""
    errors = torch.stack([F.mse_loss(model(image), image) for image in x.split(1)]).mean()
    return (one_by_one(model, criterion, x) - errors) / criterion.weight


def check(model: nn.Module, **options: object) -> None:
    """The total and its gradients are those of one image at a time."""
    x = images(dtype=torch.float64)
    model(x.to(next(model.parameters()).dtype))  # lazy layers
    model = model.double()
    criterion, parameters = trained(model, **options), list(model.parameters())
    alone = one_by_one(model, criterion, x)
    wanted = torch.autograd.grad(alone, parameters)
    terms = criterion.eval()(x)
    assert torch.allclose(terms.total, alone, rtol=1e-12)
    assert terms.defined.all()
    for a, b in zip(torch.autograd.grad(terms.total, parameters), wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-14)


def test_the_total_and_its_gradients_are_those_of_one_image_at_a_time(mapped: list[int]) -> None:
    torch.manual_seed(0)
    check(ConvAutoencoder(1, SIZE))
    assert not mapped


@pytest.mark.parametrize("decoder", KNOWN.values(), ids=KNOWN)
def test_gradients_from_factors(decoder: Callable[[], nn.Module], mapped: list[int]) -> None:
    torch.manual_seed(0)
    check(Decoded(decoder()), weight=0.5)
    assert not mapped


@pytest.mark.parametrize("decoder", MAPPED.values(), ids=MAPPED)
def test_gradients_that_have_no_factors_are_mapped(
    decoder: Callable[[], nn.Module], mapped: list[int]
) -> None:
    torch.manual_seed(0)
    check(Decoded(decoder()), weight=0.5)
    assert mapped


def test_a_function_that_gives_no_gradient(mapped: list[int]) -> None:
    torch.manual_seed(0)
    criterion = trained(Decoded(nn.Sequential(nn.Flatten(), Cut())))
    terms = criterion(images())
    terms.total.backward()
    assert mapped == [5]
    assert terms.defined.tolist() == [False, True]
    assert int(criterion.reference.count) == 2


def test_a_model_that_changes_is_looked_at_again(mapped: list[int]) -> None:
    class Mixing(nn.Module):
        mixes = False

        def forward(self, h: Tensor) -> Tensor:
            return h - h.mean(0) if self.mixes else h.tanh()

    torch.manual_seed(0)
    mixing = Mixing()
    model = Decoded(nn.Sequential(nn.Flatten(), nn.Linear(16, 16), mixing, nn.Linear(16, 64)))
    criterion = trained(model).eval()
    criterion(images())
    assert not mapped
    mixing.mixes = True
    assert torch.allclose(
        criterion(images()).constraint, one_constraint(model, criterion, images()), atol=1e-6
    )
    assert mapped == [5]


def test_errors_whose_squares_underflow_have_a_direction() -> None:
    torch.manual_seed(0)
    model = Decoded(nn.Linear(16, 64), (16,))
    nn.init.zeros_(model.encoder[1].bias)
    nn.init.zeros_(model.decoder.bias)
    criterion = trained(model).eval()
    terms, small = criterion(images()), criterion(1e-18 * images())
    assert small.defined.all()
    assert torch.allclose(small.cosines, terms.cosines, atol=1e-5)


def test_an_image_alone_and_values_without_a_graph() -> None:
    torch.manual_seed(0)
    model = ConvAutoencoder(1, SIZE)
    criterion = trained(model).eval()
    each = torch.stack([criterion(image).constraint.detach() for image in images().split(1)])
    with torch.inference_mode():
        terms = criterion(images())
    assert not terms.total.requires_grad
    assert float(terms.constraint) == pytest.approx(float(each.mean()), abs=1e-6)


@pytest.mark.parametrize("build", [ConvAutoencoder, ConvVAE])
def test_the_cosines_are_the_scorers(build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = build(1, SIZE)
    criterion = trained(model)
    model.eval()
    with torch.no_grad():
        terms = criterion.eval()(images())
    scores = GradConScorer(model, criterion)(images())
    assert np.allclose(terms.cosines, scores.cosines.mean(0), atol=1e-6)
    assert float(terms.constraint) == pytest.approx(float(scores.gradient.mean()), abs=1e-6)
    assert terms.defined.all()


def test_it_is_another_constraint_than_the_batchs() -> None:
    torch.manual_seed(0)
    model = ConvAutoencoder(1, SIZE)
    criterion = trained(model).eval()
    batch = GradConLoss(model).eval()
    batch.load_state_dict(criterion.state_dict())
    assert abs(float(criterion(images()).constraint.detach() - batch(images()).constraint.detach())) > 1e-3
    one = images(1)
    assert torch.allclose(criterion(one).total, batch(one).total)


@pytest.mark.parametrize("reference", ["total", "reconstruction"])
def test_the_reference_takes_every_batch_in(reference: str) -> None:
    torch.manual_seed(0)
    model = ConvAutoencoder(1, SIZE)
    criterion = trained(model, reference=reference)
    before = {n: r.clone() for n, r in criterion.reference.as_dict().items()}
    terms = criterion(images())
    names = list(before)
    weights = dict(model.named_parameters())
    of = terms.total if reference == "total" else F.mse_loss(model(images()), images())
    wanted = torch.autograd.grad(of, [weights[n] for n in names], retain_graph=True)
    if reference == "total":  # the capture was for a backward, which autograd.grad is too
        assert int(criterion.reference.count) == 2
    terms.total.backward()
    assert int(criterion.reference.count) == 2
    for name, g in zip(names, wanted, strict=True):
        assert torch.allclose(criterion.reference.as_dict()[name], (before[name] + g) / 2, atol=1e-7)


@pytest.mark.parametrize("decoder", [KNOWN["linear"], KNOWN["many positions"], MAPPED["shared"]])
def test_the_reference_can_be_the_mean_direction_of_the_images(decoder: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = Decoded(decoder())
    criterion = GradConLoss(model, per_image=True, reference="direction")
    weights, batches = dict(model.named_parameters()), images(9).split(5)
    wanted: dict[str, Tensor] = {}
    for batch in batches:
        terms = criterion(batch)
        assert bool(terms.defined.any()) == (batch is not batches[0])
        for image in batch.split(1):
            error = F.mse_loss(model(image), image)
            for name in criterion.reference.names:
                (g,) = torch.autograd.grad(error, weights[name], retain_graph=True)
                unit = g / torch.linalg.vector_norm(g)
                wanted[name] = wanted.get(name, torch.zeros_like(g)) + unit / (len(batch) * len(batches))
    for name, r in criterion.reference.as_dict().items():
        assert torch.allclose(r, wanted[name].float(), atol=1e-6)
    assert int(criterion.reference.count) == 2


def test_a_weight_that_no_image_reaches_does_not_stop_the_reference() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(64, 4)
            self.decoder = nn.ModuleList([nn.Linear(4, 64), nn.Linear(4, 64)])

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.decoder[0](self.encoder(x.flatten(1))).view_as(x)
            return out

    model = Idle()
    criterion = GradConLoss(model, per_image=True)
    for _ in range(3):
        terms = criterion(images())
        terms.total.backward()
    assert int(criterion.reference.count) == 3
    assert terms.defined.tolist() == [True, False]
    resumed = GradConLoss(model, per_image=True)
    resumed.load_state_dict(criterion.state_dict())
    resumed(images()).total.backward()
    assert int(resumed.reference.count) == 4


RESUMED = TrainingSettings(batch_size=8, validation=0.25, per_image=True)


def resumes(build: Callable[[], nn.Module], folder: Path) -> GradConTrainer:
    """That a training taken up after an epoch ends with the bits of an unbroken one, which is returned."""

    def trainer(name: str) -> GradConTrainer:
        torch.manual_seed(0)
        return GradConTrainer(build(), images(32), RESUMED, directory=folder / name)

    unbroken = trainer("a")
    unbroken.fit(3)
    trainer("b").fit(1)
    resumed = trainer("b")
    resumed.fit(3)
    a, b = (t.model.state_dict() for t in (unbroken, resumed))
    assert all(torch.equal(a[n], b[n]) for n in a)
    return unbroken


@pytest.mark.parametrize("decoder", [KNOWN["linear"], MAPPED["shared"]], ids=["factors", "mapped"])
def test_a_training_with_dropout_resumes_bit_for_bit(
    decoder: Callable[[], nn.Module], tmp_path: Path
) -> None:
    resumes(lambda: Decoded(nn.Sequential(nn.Dropout(0.5), decoder())), tmp_path)


def test_training_resumes_bit_for_bit_and_scores(tmp_path: Path) -> None:
    unbroken = resumes(lambda: ConvVAE(1, SIZE), tmp_path)
    scores = load_scorer(tmp_path / "b" / "last.safetensors")(images())
    assert np.array_equal(scores.gradient, GradConScorer(unbroken.model, unbroken.loss)(images()).gradient)
    with pytest.raises(InputError, match="settings"):
        GradConTrainer(
            ConvVAE(1, SIZE),
            images(32),
            TrainingSettings(batch_size=8, validation=0.25),
            directory=tmp_path / "a",
        )


class TestBadInput:
    def test_a_model_whose_images_mix(self) -> None:
        class Normed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4))
                self.decoder = nn.Linear(4, 64)

            def forward(self, x: Tensor) -> Tensor:
                out: Tensor = self.decoder(self.encoder(x)).view_as(x)
                return out

        criterion = GradConLoss(Normed(), per_image=True)
        criterion(images()).total.backward()
        with pytest.raises(ModelError, match=r"Normed cannot be mapped over its images by torch\.func\.vmap"):
            criterion(images())

    def test_an_output_of_another_shape(self) -> None:
        model = ConvAutoencoder(1, SIZE)
        criterion = trained(model)
        model.decoder.append(nn.Flatten())
        with pytest.raises(ModelError, match="wanted a reconstruction of the shape of its input"):
            criterion(images())

    def test_a_perfect_reconstruction_has_no_direction(self) -> None:
        model = nn.Sequential()
        model.decoder = nn.Linear(64, 64)
        model.forward = lambda x: model.decoder(x.flatten(1)).view_as(x)  # type: ignore[method-assign]
        criterion = GradConLoss(model, per_image=True)
        criterion(images()).total.backward()
        with torch.no_grad():
            model.decoder.weight.copy_(torch.eye(64))
            model.decoder.bias.zero_()
        terms = criterion(images())
        terms.total.backward()
        assert not terms.defined.any()
        assert float(terms.constraint.detach()) == 0
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
