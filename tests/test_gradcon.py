"""GradCON: the models, the constraint and its double backward, the per-sample scores."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradfast
from gradfast.errors import InputError, ModelError
from gradfast.gradcon import (
    ConvAutoencoder,
    ConvVAE,
    GradConLoss,
    GradConScorer,
    GradientReference,
    UndefinedCosineWarning,
    fit_weight,
)
from gradfast.gradcon.autoencoders import check_images, decoder_weights
from gradfast.gradcon.constraint import REFERENCES


class Small(nn.Module):
    """A fully connected encoder-decoder of a user's own, smooth, so that numeric derivatives exist."""

    def __init__(self, pixels: int = 12) -> None:
        super().__init__()
        self.enc = nn.Linear(pixels, 5)
        self.dec = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, pixels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.dec(torch.tanh(self.enc(x.flatten(1)))).view_as(x)


def images(n: int, channels: int = 1, size: int = 28, seed: int = 0) -> Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model() -> ConvAutoencoder:
    torch.manual_seed(0)
    return ConvAutoencoder(1)


def one_by_one(model: nn.Module, reference: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The published way: an image at a time, its whole backward, a cosine per tensor."""
    weights = dict(model.named_parameters())
    errors, cosines = [], []
    for image in x.split(1):
        model.zero_grad()
        out = model(image)
        error = F.mse_loss(out[0] if isinstance(out, tuple) else out, image)
        error.backward()
        errors.append(error.detach())
        cosines.append(
            torch.stack(
                [
                    F.cosine_similarity(weights[n].grad.flatten(), r.flatten(), dim=0)
                    for n, r in reference.items()
                ]
            )
        )
    model.zero_grad()
    return torch.stack(errors), torch.stack(cosines)


class TestModels:
    @pytest.mark.parametrize(("channels", "parameters"), [(1, 230_721), (3, 232_771)])
    def test_parameter_count_is_the_papers(self, channels: int, parameters: int) -> None:
        # the paper says 230,721 for one channel, and so do these layers
        assert sum(p.numel() for p in ConvAutoencoder(channels).parameters()) == parameters

    @pytest.mark.parametrize("size", [(28, 28), (32, 32), (8, 8), (33, 47), (5, 5)])
    def test_output_has_the_inputs_shape(self, size: tuple[int, int]) -> None:
        x = torch.rand(2, 3, *size)
        assert ConvAutoencoder(3, size)(x).shape == x.shape
        output, mean, log_variance = ConvVAE(3, size, latent=7)(x)
        assert output.shape == x.shape
        assert mean.shape == log_variance.shape == (2, 7)

    def test_at_28_the_decoder_pads_as_the_published_one(self) -> None:
        up = [m for m in ConvAutoencoder(1).decoder if isinstance(m, nn.ConvTranspose2d)]
        assert [m.padding for m in up] == [(2, 2), (1, 1), (2, 2), (1, 1)]
        assert all(m.output_padding == (0, 0) for m in up)

    def test_vae_draws_in_train_mode_only(self) -> None:
        vae, x = ConvVAE(1), images(2)
        assert not torch.equal(vae(x)[0], vae(x)[0])
        vae.eval()
        assert torch.equal(vae(x)[0], vae(x)[0])

    def test_decoder_weights_leave_biases_out(self, model: ConvAutoencoder) -> None:
        assert list(decoder_weights(model)) == [f"decoder.{i}.weight" for i in (0, 2, 4, 6)]

    def test_decoder_weights_that_are_tied_to_the_encoders(self) -> None:
        model = nn.Module()
        model.encoder = nn.Linear(6, 6)
        model.decoder = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
        model.decoder[0].weight = model.encoder.weight
        assert list(decoder_weights(model)) == ["encoder.weight", "decoder.1.weight"]
        assert GradConLoss(model).reference.names == ("encoder.weight", "decoder.1.weight")


class TestConstraint:
    def test_gradient_of_the_total_is_that_of_its_formula(self) -> None:
        """Against numeric differentiation, in float64: the double backward is exact."""
        torch.manual_seed(1)
        model, x = Small().double(), torch.rand(4, 12, dtype=torch.float64)
        loss = GradConLoss(model, "dec", weight=0.5)
        past = {n: torch.randn_like(p) for n, p in decoder_weights(model, "dec").items()}
        loss.reference.update(past)
        names = list(past)

        def total(flat: Tensor) -> Tensor:
            parameters, start = {}, 0
            for n, p in model.named_parameters():
                parameters[n] = flat[start : start + p.numel()].view_as(p)
                start += p.numel()
            error = F.mse_loss(torch.func.functional_call(model, parameters, (x,)), x)
            g = torch.autograd.grad(error, [parameters[n] for n in names], create_graph=True)
            cosines = [
                F.cosine_similarity(a.flatten(), past[n].flatten(), dim=0)
                for a, n in zip(g, names, strict=True)
            ]
            return error - 0.5 * torch.stack(cosines).mean()

        flat = torch.cat([p.detach().flatten() for p in model.parameters()]).requires_grad_()
        terms = loss(x)
        assert torch.allclose(terms.total, total(flat))
        terms.total.backward()
        ours = torch.cat([p.grad.flatten() for p in model.parameters()])
        step = 1e-6
        for i in range(0, len(flat), 7):
            moved = [flat.detach().clone().requires_grad_() for _ in range(2)]
            with torch.no_grad():
                moved[0][i] += step
                moved[1][i] -= step
            numeric = (total(moved[0]) - total(moved[1])) / (2 * step)
            assert abs(ours[i] - numeric) < 1e-6 * (1 + abs(numeric))

    def test_first_batch_has_no_constraint(self, model: ConvAutoencoder) -> None:
        terms = GradConLoss(model)(images(4))
        assert terms.constraint == 0
        assert torch.equal(terms.total, terms.reconstruction)
        assert not terms.defined.any()

    @pytest.mark.parametrize("kind", REFERENCES)
    def test_reference_is_the_mean_of_past_gradients(self, kind: str) -> None:
        torch.manual_seed(0)
        model = Small()
        loss = GradConLoss(model, "dec", reference=kind)
        seen: dict[str, list[Tensor]] = {n: [] for n in loss.reference.names}
        for i in range(3):
            x = torch.rand(5, 12, generator=torch.Generator().manual_seed(i))
            model.zero_grad()
            error = F.mse_loss(model(x), x)
            alone = torch.autograd.grad(error, [dict(model.named_parameters())[n] for n in seen])
            loss(x).total.backward()
            for n, g in zip(seen, alone, strict=True):
                g = dict(model.named_parameters())[n].grad.clone() if kind == "total" else g
                seen[n].append(g / g.norm() if kind == "direction" else g)
        assert int(loss.reference.count) == 3
        for n, mean in loss.reference.as_dict().items():
            assert torch.allclose(mean, torch.stack(seen[n]).mean(0), rtol=1e-4, atol=1e-8)

    def test_scaling_the_total_does_not_scale_the_reference(self) -> None:
        torch.manual_seed(0)
        model, x = Small(), torch.rand(5, 12)
        other = copy.deepcopy(model)
        plain, scaled = GradConLoss(model, "dec"), GradConLoss(other, "dec")
        plain(x).total.backward()
        (scaled(x).total * 1024).backward()
        for a, b in zip(plain.reference.as_dict().values(), scaled.reference.as_dict().values(), strict=True):
            assert torch.allclose(a, b)

    def test_several_totals_before_their_backward(self) -> None:
        """Apart, each is a batch of the mean; in one backward they are one batch, weighed as they were summed."""
        torch.manual_seed(0)
        model, x, y = Small().double(), torch.rand(2, 12).double(), torch.rand(3, 12).double()
        weights = list(decoder_weights(model, "dec").values())
        g, h = (torch.autograd.grad(F.mse_loss(model(z), z), weights) for z in (x, y))
        for together in (False, True):
            loss = GradConLoss(model, "dec")
            loss(x)  # whose backward never comes
            first, second = loss(x).total, loss(y).total
            if together:
                (0.75 * first + 0.25 * second).backward()
            else:
                first.backward()
                second.backward()
            assert int(loss.reference.count) == (1 if together else 2)
            share = 0.75 if together else 0.5
            for mean, a, b in zip(loss.reference.as_dict().values(), g, h, strict=True):
                assert torch.allclose(mean, share * a + (1 - share) * b, atol=1e-9)

    @pytest.mark.parametrize("kind", REFERENCES)
    def test_a_weight_that_a_batch_does_not_use_has_a_gradient_of_zero(self, kind: str) -> None:
        torch.manual_seed(0)
        model, x = Small(), torch.rand(5, 12)
        model.dec.spare = nn.Linear(3, 3)
        model.dec.forward = lambda z: nn.Sequential(*list(model.dec)[:4])(z)  # type: ignore[method-assign]
        loss = GradConLoss(model, "dec", reference=kind)
        for _ in range(2):
            terms = loss(x)
            terms.total.backward()
        assert int(loss.reference.count) == 2
        assert terms.defined.tolist() == [True, True, False]
        assert not loss.reference.as_dict()["dec.spare.weight"].any()

    def test_momentum_begins_as_the_plain_mean(self) -> None:
        reference = GradientReference({"w": torch.zeros(2)}, momentum=0.5)
        for value, wanted in ((2.0, 2.0), (4.0, 3.0), (7.0, 5.0)):
            reference.update({"w": torch.full((2,), value)})
            assert reference.as_dict()["w"].tolist() == [wanted, wanted]

    def test_a_batch_with_gradients_that_are_not_finite_is_left_out(self) -> None:
        reference = GradientReference({"w": torch.zeros(2)})
        reference.update({"w": torch.ones(2)})
        reference.update({"w": torch.tensor([1.0, torch.nan])})
        assert reference.as_dict()["w"].tolist() == [1.0, 1.0]
        assert int(reference.count) == 1

    @pytest.mark.parametrize("kind", REFERENCES)
    @pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
    @pytest.mark.parametrize("training", [False, True])
    def test_eval_and_no_graph_leave_the_reference(
        self, model: ConvAutoencoder, kind: str, without: type[torch.no_grad], training: bool
    ) -> None:
        loss = GradConLoss(model, reference=kind)
        loss(images(4)).total.backward()
        loss.train(training)
        with without():
            terms = loss(images(4, seed=1))
        assert not terms.total.requires_grad
        assert terms.defined.all()
        assert (terms.cosines.abs() <= 1).all()
        assert int(loss.reference.count) == 1
        if not training:
            assert torch.equal(terms.cosines, loss(images(4, seed=1)).cosines)
            assert int(loss.reference.count) == 1

    def test_constraint_turns_the_gradients(self) -> None:
        torch.manual_seed(0)
        x = images(32, size=8)

        def trained(weight: float) -> float:
            torch.manual_seed(0)
            model = ConvAutoencoder(1, (8, 8))
            loss, optimizer = GradConLoss(model, weight=weight), torch.optim.Adam(model.parameters(), 1e-3)
            for _ in range(25):
                optimizer.zero_grad()
                terms = loss(x[torch.randperm(32)[:16]])
                terms.total.backward()
                optimizer.step()
            return float(terms.cosines.mean())

        assert trained(0.03) > trained(0.0) + 0.1

    def test_state_dict_goes_round_and_deep_copies(self, model: ConvAutoencoder) -> None:
        loss = GradConLoss(model)
        loss(images(2)).total.backward()
        other = GradConLoss(model)
        other.load_state_dict(loss.state_dict())
        assert int(other.reference.count) == 1
        both = copy.deepcopy(nn.ModuleDict({"model": model, "loss": loss}))
        both["loss"](images(2)).total.backward()
        assert both["model"].decoder[0].weight.grad is not None
        assert not any(name.startswith("encoder") for name in loss.state_dict())

    def test_a_state_dict_without_a_reference_is_taken_where_that_is_allowed(
        self, model: ConvAutoencoder
    ) -> None:
        both = nn.ModuleDict({"model": model, "loss": GradConLoss(model)})
        alone = nn.ModuleDict({"model": model}).state_dict()
        missing = both.load_state_dict(alone, strict=False).missing_keys
        assert len(missing) == 5
        assert all(name.startswith("loss.reference.") for name in missing)
        with pytest.raises(RuntimeError, match="Missing key"):
            both.load_state_dict(alone)

    def test_vae_adds_the_divergence_per_pixel(self) -> None:
        torch.manual_seed(0)
        vae, x = ConvVAE(1), images(3)
        terms = GradConLoss(vae)(x)
        _, mean, log_variance = vae.eval()(x)
        wanted = torch.distributions.kl_divergence(
            torch.distributions.Normal(mean, (0.5 * log_variance).exp()), torch.distributions.Normal(0.0, 1.0)
        )
        assert torch.allclose(terms.divergence, wanted.sum(1).mean() / 784, rtol=1e-4)
        assert torch.allclose(terms.total, terms.reconstruction + terms.divergence)


class TestScores:
    @pytest.mark.parametrize("build", [ConvAutoencoder, ConvVAE])
    def test_batched_scores_equal_the_loop(self, build: type[nn.Module]) -> None:
        torch.manual_seed(0)
        model = build(3)
        loss, optimizer = GradConLoss(model), torch.optim.Adam(model.parameters(), 1e-3)
        for i in range(3):
            optimizer.zero_grad()
            loss(images(16, 3, seed=i)).total.backward()
            optimizer.step()
        model.eval()
        x = images(21, 3, seed=9)
        scores = GradConScorer(model, loss, batch_size=8)(x)
        errors, cosines = one_by_one(model, loss.reference.as_dict(), x)
        assert np.allclose(scores.reconstruction, errors, atol=1e-4)
        assert np.allclose(scores.cosines, cosines, atol=1e-4)
        assert np.allclose(scores.gradient, -cosines.mean(1), atol=1e-4)
        assert np.allclose(scores.combined, scores.reconstruction + 0.12 * scores.gradient, atol=1e-6)
        assert (scores.latent is None) == (build is ConvAutoencoder)
        assert not scores.flagged.any()

    def test_latent_score_is_the_divergence(self) -> None:
        torch.manual_seed(0)
        vae, x = ConvVAE(1).eval(), images(3)
        scores = GradConScorer(vae, _random_reference(vae))(x)
        _, mean, log_variance = vae(x)
        wanted = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        assert np.allclose(scores.latent, wanted.detach(), rtol=1e-4)

    def test_refreshed_reference_is_the_mean_of_the_images_gradients(self) -> None:
        torch.manual_seed(0)
        model, x = Small(), torch.rand(7, 12)
        scorer = GradConScorer(model, _random_reference(model, "dec"), batch_size=3).refreshed(x)
        error = F.mse_loss(model(x), x)
        for name, mean in scorer.reference.items():
            (wanted,) = torch.autograd.grad(error, model.get_parameter(name), retain_graph=True)
            assert torch.allclose(mean, wanted, atol=1e-7)
        assert all(p.grad is None for p in model.parameters())

    def test_refreshed_with_frozen_weights_and_in_inference_mode(self, model: ConvAutoencoder) -> None:
        reference = {n: torch.ones_like(p) for n, p in decoder_weights(model).items()}
        scorer, x = GradConScorer(model, reference), images(3)
        wanted = scorer.refreshed(x).reference
        model.requires_grad_(False)
        with torch.inference_mode():
            found = scorer.refreshed(images(3)).reference
        assert not any(p.requires_grad for p in model.parameters())
        assert all(torch.equal(found[n], wanted[n]) for n in wanted)

    def test_any_encoder_decoder(self) -> None:
        torch.manual_seed(0)
        model, x = Small(), torch.rand(6, 12)
        reference = _random_reference(model, "dec")
        scores = GradConScorer(model, reference)(x)
        errors, cosines = one_by_one(model, reference, x)
        assert np.allclose(scores.reconstruction, errors, atol=1e-6)
        assert np.allclose(scores.cosines, cosines, atol=1e-5)

    def test_mode_and_gradients_are_as_before(self, model: ConvAutoencoder) -> None:
        model.train()
        GradConScorer(model, _random_reference(model))(images(2))
        assert all(m.training for m in model.modules())
        assert all(p.grad is None and p.requires_grad for p in model.parameters())

    def test_a_zero_gradient_is_flagged_and_counts_as_zero(self) -> None:
        model = Small()
        with torch.no_grad():
            model.dec[2].weight.zero_()
            model.dec[2].bias.zero_()  # every output is one half
        x = torch.rand(3, 12)
        x[1] = 0.5
        with pytest.warns(UndefinedCosineWarning, match="1 of 3"):
            scores = GradConScorer(model, {"dec.2.weight": torch.ones(12, 8)})(x)
        assert scores.flagged.tolist() == [False, True, False]
        assert scores.gradient[1] == 0
        assert np.isfinite(scores.gradient).all()

    def test_tiny_gradients_keep_their_direction(self) -> None:
        torch.manual_seed(0)
        model, x = Small().double(), torch.rand(4, 12).double()
        reference = {n: 1e-200 * r for n, r in _random_reference(model, "dec").items()}
        scores = GradConScorer(model, reference)(x)
        big = GradConScorer(model, {n: 1e200 * r for n, r in reference.items()})(x)
        assert np.allclose(scores.cosines, big.cosines)
        assert not scores.flagged.any()

    def test_fit_weight_finds_the_better_mix(self) -> None:
        torch.manual_seed(0)
        model = Small()
        scorer = GradConScorer(model, _random_reference(model, "dec"))
        normal, other = scorer(torch.rand(20, 12)), scorer(torch.rand(20, 12) * 0.1)
        weight = fit_weight(normal, other)
        assert weight in (0.0, 0.03, 0.06, 0.12, 0.25, 0.5, 1, 4)


class TestGradCosines:
    def test_equals_dots_over_norms(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4))
        x, reference = torch.randn(5, 1, 8, 8), {n: torch.randn_like(p) for n, p in model.named_parameters()}
        found = gradfast.grad_cosines(model, x, reference)
        dots, norms = gradfast.grad_dots(model, x, reference), gradfast.grad_norms(model, x)
        lengths = torch.stack([r.norm() for r in reference.values()])
        assert found.layers == dots.layers == norms.layers
        assert torch.allclose(found.values, dots.values / norms.values.sqrt() / lengths, atol=1e-5)

    def test_tied_weights_and_slices(self) -> None:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.w = nn.Parameter(torch.randn(6, 6))
                self.parts = nn.Parameter(torch.randn(8, 6))

            def forward(self, x: Tensor) -> Tensor:
                h = torch.tanh(F.linear(torch.tanh(F.linear(x, self.w)), self.w))
                return F.linear(h, self.parts[:4]) + F.linear(x, self.parts[4:])

        torch.manual_seed(0)
        model, x = Tied(), torch.randn(4, 6)
        reference = {n: torch.randn_like(p) for n, p in model.named_parameters()}
        found = gradfast.grad_cosines(model, x, reference).values
        for b in range(4):
            for c in range(4):
                loss = F.cross_entropy(model(x[b : b + 1]), torch.tensor([c]))
                g = torch.autograd.grad(loss, list(model.parameters()))
                wanted = [
                    F.cosine_similarity(a.flatten(), r.flatten(), dim=0)
                    for a, r in zip(g, reference.values(), strict=True)
                ]
                assert torch.allclose(found[b, c], torch.stack(wanted), atol=1e-5)

    def test_zero_reference_is_nan(self) -> None:
        model = nn.Linear(3, 2)
        found = gradfast.grad_cosines(model, torch.randn(2, 3), {"weight": torch.zeros(2, 3)})
        assert found.values.isnan().all()


def _random_reference(model: nn.Module, decoder: str = "decoder") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        n: torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for n, p in decoder_weights(model, decoder).items()
    }


class TestBadInput:
    def test_output_of_another_shape(self) -> None:
        model = nn.Sequential(OrderedDict(encoder=nn.Conv2d(1, 2, 3), decoder=nn.ConvTranspose2d(2, 1, 2)))
        with pytest.raises(
            ModelError, match=r"shape \[2, 1, 28, 28\]; wanted a reconstruction of the shape of its input"
        ):
            GradConLoss(model)(images(2))

    def test_output_of_another_kind(self) -> None:
        class Pair(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.decoder = nn.Linear(3, 3)

            def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
                return self.decoder(x), x

        with pytest.raises(ModelError, match=r"a tuple \(reconstruction, mean, log variance\)"):
            GradConLoss(Pair())(torch.rand(2, 3))

    @pytest.mark.parametrize(
        ("x", "said"),
        [
            (images(2) * 255, r"values from .* to .*; wanted \[0, 1\]"),
            (images(2) - 1, r"wanted \[0, 1\]"),
            (images(2).fill_(torch.nan), "NaN or infinite"),
            (images(0), "no image"),
            (torch.zeros(2, 1, 28, 28, dtype=torch.uint8), "wanted a floating tensor"),
        ],
    )
    def test_images_that_the_decoder_cannot_give_back(
        self, model: ConvAutoencoder, x: Tensor, said: str
    ) -> None:
        with pytest.raises(InputError, match=said):
            GradConScorer(model, _random_reference(model))(x)

    def test_any_finite_value_without_a_sigmoid(self) -> None:
        x = torch.randn(2, 3) * 100
        assert check_images(nn.Linear(3, 3), x) is x

    def test_no_decoder_tensor(self, model: ConvAutoencoder) -> None:
        with pytest.raises(InputError, match="generator"):
            GradConLoss(model, "generator")
        with pytest.raises(InputError, match="none of them a weight of two or more dimensions"):
            GradConLoss(model, "decoder.*.bias")

    def test_frozen_decoder(self, model: ConvAutoencoder) -> None:
        model.decoder.requires_grad_(False)
        with pytest.raises(InputError, match="do not want gradients"):
            GradConLoss(model)

    def test_reference_of_another_model(self, model: ConvAutoencoder) -> None:
        other = GradConLoss(ConvAutoencoder(3))
        with pytest.raises(InputError, match="shape"):
            GradConScorer(model, other)
        with pytest.raises(InputError, match="the reference of another model"):
            GradConLoss(model).load_state_dict(other.state_dict())
        with pytest.raises(InputError, match="reference"):
            GradConScorer(model, {})

    @pytest.mark.parametrize(
        "arguments", [{"weight": -1.0}, {"momentum": 1.0}, {"momentum": -0.1}, {"reference": "batch"}]
    )
    def test_numbers_out_of_range(self, model: ConvAutoencoder, arguments: dict[str, object]) -> None:
        with pytest.raises(InputError, match=next(iter(arguments))):
            GradConLoss(model, **arguments)

    def test_no_warning_in_the_ordinary_case(self, model: ConvAutoencoder) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            GradConScorer(model, _random_reference(model))(images(3))


@pytest.mark.parametrize("build", [ConvAutoencoder, ConvVAE])
def test_contributions_add_up_to_the_score(build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = build(2)
    criterion = GradConLoss(model)
    criterion(images(4, 2)).total.backward()
    scorer = GradConScorer(model, criterion)
    x = images(3, 2, seed=1)
    shares = scorer.contributions(x)
    assert shares.shape == x.shape
    assert model.training
    np.testing.assert_allclose(shares.sum((1, 2, 3)), scorer(x).gradient, atol=1e-5)


def test_contributions_are_those_of_each_pixels_own_error() -> None:
    torch.manual_seed(0)
    model = Small().double()
    weights = {name: p for name, p in model.named_parameters() if name in ("dec.0.weight", "dec.2.weight")}
    reference = {name: torch.randn_like(p) for name, p in weights.items()}
    x = torch.rand(2, 3, 4, dtype=torch.float64)
    shares = GradConScorer(model, reference).contributions(x)
    for b in range(2):
        errors = (model(x[b : b + 1]) - x[b : b + 1]).square().flatten()
        whole = torch.autograd.grad(errors.sum(), list(weights.values()), retain_graph=True)
        for pixel in range(12):
            own = torch.autograd.grad(errors[pixel], list(weights.values()), retain_graph=True)
            cosines = [
                (g * r).sum() / r.norm() / w.norm()
                for g, r, w in zip(own, reference.values(), whole, strict=True)
            ]
            torch.testing.assert_close(shares[b].flatten()[pixel], -torch.stack(cosines).mean())


def test_contributions_without_a_direction_are_zero(model: ConvAutoencoder) -> None:
    reference = {name: torch.zeros_like(p) for name, p in decoder_weights(model).items()}
    assert not GradConScorer(model, reference).contributions(images(2)).any()


def test_standardised_is_in_deviations_of_normal_images(model: ConvAutoencoder) -> None:
    criterion = GradConLoss(model)
    criterion(images(4)).total.backward()
    plain = GradConScorer(model, criterion, batch_size=3)
    assert plain(images(2)).standardised is None
    normal = (images(7, seed=1) * 255).byte()
    scorer = plain.standardised(normal)
    known = plain(normal.float() / 255).cosines.astype(np.float64)
    x = images(5, seed=2)
    found = scorer(x)
    cosines = plain(x).cosines
    wanted = ((known.mean(0) - cosines) / known.std(0, ddof=1)).mean(1)
    assert found.standardised is not None
    np.testing.assert_allclose(found.standardised, wanted, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(found.gradient, plain(x).gradient)
    assert list(found.by_name()) == ["reconstruction", "gradient", "standardised", "combined"]
    assert scorer.refreshed(normal)(x).standardised is None  # other cosines, other deviations


def test_standardised_wants_two_images_and_stays_finite(model: ConvAutoencoder) -> None:
    scorer = GradConScorer(model, {name: torch.ones_like(p) for name, p in decoder_weights(model).items()})
    with pytest.raises(InputError, match="got 1 images; wanted at least 2"):
        scorer.standardised(images(1))
    same = scorer.standardised(images(1).expand(3, -1, -1, -1))(images(2, seed=3)).standardised
    assert same is not None
    assert np.isfinite(same).all()
