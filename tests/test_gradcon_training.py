"""GradCON's training loop: seeds, checkpoints, resumption, Lightning."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gradfast.errors import InputError
from gradfast.gradcon import (
    CollapsedWarning,
    ConvAutoencoder,
    ConvVAE,
    GradConLoss,
    GradConScorer,
    GradConTrainer,
    TrainingSettings,
    brightness,
    load_scorer,
    one_class,
)

SIZE = (8, 8)
SETTINGS = TrainingSettings(batch_size=8, validation=0.25)


def images(n: int = 32) -> Tensor:
    return torch.randint(0, 256, (n, 1, *SIZE), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


def trainer(
    directory: Path | None = None,
    build: type[nn.Module] = ConvAutoencoder,
    settings: TrainingSettings = SETTINGS,
) -> GradConTrainer:
    torch.manual_seed(0)
    return GradConTrainer(build(1, SIZE), images(), settings, directory=directory)


@pytest.mark.parametrize("build", [ConvAutoencoder, ConvVAE])
def test_resumed_equals_unbroken_bit_for_bit(tmp_path: Path, build: type[nn.Module]) -> None:
    unbroken = trainer(tmp_path / "a", build)
    unbroken.fit(4)
    trainer(tmp_path / "b", build).fit(1)
    torch.rand(7)  # what happens between the two must not matter
    resumed = trainer(tmp_path / "b", build)
    resumed.fit(4)
    for name in ("last.safetensors", "best.safetensors"):
        a, b = load_file(tmp_path / "a" / name), load_file(tmp_path / "b" / name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[n], b[n]) for n in a)
    drop = {"seconds": 0.0}
    assert [{**vars(e), **drop} for e in unbroken.history] == [{**vars(e), **drop} for e in resumed.history]


def test_seeds_repeat_and_differ() -> None:
    def last(seed: int) -> float:
        t = trainer(settings=TrainingSettings(batch_size=8, seed=seed))
        return t.fit(1)[-1].total

    assert last(1) == last(1)
    assert last(1) != last(2)


def test_training_leaves_the_callers_random_state() -> None:
    t = trainer(build=ConvVAE)
    before = torch.get_rng_state()
    t.fit(1)
    assert torch.equal(before, torch.get_rng_state())


def test_history_and_best_epoch(tmp_path: Path) -> None:
    heard: list[int] = []
    t = trainer(tmp_path)
    t.fit(3, lambda epoch: heard.append(epoch.number))
    assert heard == [1, 2, 3]
    assert t.best is not None
    assert t.best.validation == min(e.validation for e in t.history)
    assert t.history[-1].reconstruction < t.history[0].reconstruction
    assert len(t.history[0].cosines) == 4
    assert len(t.held_out) == 8
    assert len(set(t.held_out.tolist()) | set(t.rows.tolist())) == 32


def test_killed_between_its_two_checkpoints_the_best_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    trainer(directory=whole).fit(2)
    trainer(directory=broken).fit(1)
    first, written = trainer(directory=broken), []

    def killed(self: GradConTrainer, path: Path) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(self, path)

    write = GradConTrainer._write
    with monkeypatch.context() as patch:
        patch.setattr(GradConTrainer, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            first.fit(2)
    assert first.best is first.history[-1]  # else there is only one to write
    trainer(directory=broken).fit(2)
    states = [load_file(folder / "best.safetensors") for folder in (whole, broken)]
    assert all(torch.equal(a, states[1][name]) for name, a in states[0].items())


class TestCollapse:
    """A decoder whose last bias has run away gives black images whatever comes in, and nothing pulls it back."""

    def collapsed(self, steps: int) -> GradConTrainer:
        settings = TrainingSettings(batch_size=8, validation=0.0, learning_rate=1e-9)
        made = GradConTrainer(ConvAutoencoder(1, SIZE), images(8), settings)
        with torch.no_grad():
            made.model.decoder[-2].bias.fill_(-1e3)
        made.fit(steps)
        return made

    def test_is_warned_of(self) -> None:
        with pytest.warns(
            CollapsedWarning, match=r"after 200 steps the reconstruction error is 0\.3\d+, and that"
        ):
            self.collapsed(200)

    def test_short_trainings_have_not_had_the_time(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", CollapsedWarning)
            self.collapsed(3)

    def test_what_learns_is_not(self) -> None:
        plain = torch.linspace(0, 1, 8).view(8, 1, 1, 1).expand(8, 1, *SIZE).contiguous()
        settings = TrainingSettings(batch_size=8, validation=0.0, learning_rate=1e-2)
        with warnings.catch_warnings():
            warnings.simplefilter("error", CollapsedWarning)
            torch.manual_seed(0)
            made = GradConTrainer(ConvAutoencoder(1, SIZE), plain, settings)
            made.fit(200)
        assert made.history[-1].reconstruction < 0.05


class TestInit:
    @pytest.mark.parametrize("build", [ConvAutoencoder, ConvVAE])
    def test_he_keeps_the_scale_of_activations_where_torchs_lets_it_vanish(
        self, build: type[nn.Module]
    ) -> None:
        x = torch.rand(16, 1, 28, 28, generator=torch.Generator().manual_seed(0))

        def spread(init: str) -> list[float]:
            torch.manual_seed(0)
            model, found = build(1, init=init), []
            for half, width in ((model.encoder, 1), (model.decoder, 64)):
                h = x if width == 1 else torch.randn(16, 64, 3, 3).relu()
                for layer in half[:-1]:
                    h = layer(h)
                found.append(float(h.detach().std()))
            return found

        assert all(0.3 < s < 3 for s in spread("he"))
        assert all(s < 0.1 for s in spread("torch"))

    def test_he_is_of_the_sums_length(self) -> None:
        torch.manual_seed(0)
        model = ConvAutoencoder(3, init="he")
        assert float(model.encoder[2].weight.std()) == pytest.approx((2 / (32 * 16)) ** 0.5, rel=0.03)
        assert float(model.decoder[2].weight.std()) == pytest.approx((2 / (64 * 4)) ** 0.5, rel=0.03)
        assert not model.decoder[0].bias.any()

    def test_of_another_name(self) -> None:
        with pytest.raises(InputError, match="init: got 'xavier'"):
            ConvVAE(1, init="xavier")

    @pytest.mark.parametrize("build", [ConvAutoencoder, ConvVAE])
    def test_the_output_begins_at_a_brightness(self, build: type[nn.Module]) -> None:
        torch.manual_seed(0)
        plain = build(3)
        torch.manual_seed(0)
        bright = build(3, mean=(0.1, 0.5, 0.8))
        out = bright.decoder(torch.zeros(2, 64, 3, 3))
        # What is before the last layer is small, so that its bias rules.
        assert torch.allclose(out.mean((0, 2, 3)), torch.tensor([0.1, 0.5, 0.8]), atol=0.02)
        last = "decoder.6.bias"
        for (name, a), b in zip(plain.named_parameters(), bright.parameters(), strict=True):
            assert name == last or torch.equal(a, b)
        assert torch.allclose(build(3, mean=0.25).decoder[-2].bias.sigmoid(), torch.full((3,), 0.25))

    @pytest.mark.parametrize("mean", [0.0, 1.0, (0.5, 0.5), float("nan")])
    def test_a_brightness_out_of_range(self, mean: float | tuple[float, ...]) -> None:
        with pytest.raises(InputError, match=r"mean: got .*wanted a brightness in \(0, 1\), or 3 of them"):
            ConvAutoencoder(3, mean=mean)

    def test_brightness_of_images(self) -> None:
        x = images(16).expand(-1, 2, -1, -1).clone()
        x[:, 1] = 0
        found = brightness(x)
        assert found == pytest.approx((float(x[:, 0].double().mean() / 255), 0.01))
        assert brightness(x.float() / 255) == pytest.approx(found, rel=1e-6)

    def test_dark_images_do_not_collapse(self) -> None:
        """Bright strokes on black: with PyTorch's weights alone the output ends in black."""
        rows, columns = torch.meshgrid(torch.arange(28), torch.arange(28), indexing="ij")
        x = torch.stack([((rows - columns * k / 16).abs() < 1.5) * 1.0 for k in range(16)]).unsqueeze(1)

        def error(mean: tuple[float, ...] | None) -> float:
            torch.manual_seed(1)
            model = ConvAutoencoder(1, mean=mean)
            optimizer = torch.optim.Adam(model.parameters(), 1e-3)
            for _ in range(150):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(x), x)
                loss.backward()
                optimizer.step()
            return loss.item()

        of_black, of_mean = float(x.square().mean()), float((x - x.mean(0)).square().mean())
        assert error(None) == pytest.approx(of_black, rel=0.02)
        assert error(brightness(x)) < 0.1 * of_mean


def test_weight_zero_is_plain_training() -> None:
    plain = trainer(settings=TrainingSettings(batch_size=8, weight=0.0))
    plain.fit(1)
    torch.manual_seed(0)
    model = ConvAutoencoder(1, SIZE)
    other = GradConTrainer(model, images(), TrainingSettings(batch_size=8, weight=0.0))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    order = other.rows[torch.randperm(len(other.rows), generator=torch.Generator().manual_seed(1))]
    for rows in order.split(8):
        x = images()[rows].float() / 255
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), x).backward()
        optimizer.step()
    for a, b in zip(plain.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert int(plain.loss.reference.count) == 4


@pytest.mark.parametrize("build", [ConvAutoencoder, ConvVAE])
def test_scorer_from_a_checkpoint(tmp_path: Path, build: type[nn.Module]) -> None:
    t = trainer(tmp_path, build)
    t.fit(2)
    x = images(5).float() / 255
    ours, loaded = GradConScorer(t.model, t.loss)(x), load_scorer(tmp_path / "last.safetensors")(x)
    for name, values in ours.by_name().items():
        assert np.array_equal(values, loaded.by_name()[name])


def test_a_users_own_model_is_given_to_load_scorer(tmp_path: Path) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Linear(4, 64), nn.Unflatten(1, (1, *SIZE)))

    t = GradConTrainer(build(), images(), SETTINGS, decoder="2", directory=tmp_path)
    t.fit(1)
    with pytest.raises(InputError, match="a model of the user's own"):
        load_scorer(tmp_path / "last.safetensors")
    x = images(3).float() / 255
    scores = load_scorer(tmp_path / "last.safetensors", build())(x)
    assert np.array_equal(scores.gradient, GradConScorer(t.model, t.loss)(x).gradient)


class TestBadInput:
    def test_checkpoint_of_another_training(self, tmp_path: Path) -> None:
        trainer(tmp_path).fit(1)
        with pytest.raises(InputError, match="settings"):
            trainer(tmp_path, settings=TrainingSettings(batch_size=4))
        with pytest.raises(InputError, match="images"):
            GradConTrainer(ConvAutoencoder(1, SIZE), images() // 2, SETTINGS, directory=tmp_path)
        with pytest.raises(InputError, match="another model"):
            GradConTrainer(ConvVAE(1, SIZE), images(), SETTINGS, directory=tmp_path)

    def test_checkpoint_of_other_initial_weights(self, tmp_path: Path) -> None:
        trainer(tmp_path).fit(1)
        with pytest.raises(InputError, match="holds a training with init torch; this one has he"):
            GradConTrainer(ConvAutoencoder(1, SIZE, init="he"), images(), SETTINGS, directory=tmp_path)
        path = tmp_path / "last.safetensors"
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["gradcon"])
        del facts["init"]  # as earlier versions wrote it
        save_file(load_file(path), path, metadata={"gradcon": json.dumps(facts)})
        assert len(trainer(tmp_path).fit(2)) == 2

    def test_checkpoint_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "x.safetensors").write_bytes(b"not a checkpoint")
        with pytest.raises(InputError, match="cannot be read"):
            load_scorer(tmp_path / "x.safetensors")
        with pytest.raises(InputError, match="not a file"):
            load_scorer(tmp_path / "y.safetensors")

    def test_a_class_with_no_images(self) -> None:
        with pytest.raises(InputError, match=r"label: got 7 .*a class with no images; wanted one of 0, 1"):
            one_class(images(4), torch.tensor([0, 1, 1, 0]), 7)

    def test_images_of_another_shape_than_the_models(self) -> None:
        for model, shape in ((ConvAutoencoder(1), (4, 3, 28, 28)), (ConvVAE(3), (4, 3, 32, 32))):
            with pytest.raises(InputError, match=r"wanted \[B, [13], 28, 28\], for which this Conv"):
                GradConTrainer(model, torch.rand(*shape))

    def test_no_images(self) -> None:
        with pytest.raises(InputError, match="x: got"):
            GradConTrainer(ConvAutoencoder(1, SIZE), images()[:0])

    def test_settings_out_of_range(self) -> None:
        for settings in (
            TrainingSettings(validation=1.0),
            TrainingSettings(batch_size=0),
            TrainingSettings(learning_rate=0),
        ):
            with pytest.raises(InputError, match="settings"):
                trainer(settings=settings)


def test_in_a_lightning_module(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")

    class Detector(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = ConvAutoencoder(1, SIZE)
            self.criterion = GradConLoss(self.model)

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return self.criterion(batch[0]).total

        def validation_step(self, batch: list[Tensor], _: int) -> None:
            self.log("loss", self.criterion(batch[0]).total)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 1e-3)

    torch.manual_seed(0)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images().float() / 255), batch_size=8)
    detector = Detector()
    runner = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, accumulate_grad_batches=2, gradient_clip_val=1.0,
    )  # fmt: skip
    runner.fit(detector, data, data)
    runner.validate(detector, data, verbose=False)  # in inference mode
    assert int(detector.criterion.reference.count) == 8
    assert sum(name.startswith("criterion.reference") for name in detector.state_dict()) == 5
    assert runner.callback_metrics["loss"].isfinite()
    x = images(3).float() / 255
    scores = GradConScorer(detector.model, detector.criterion)(x)
    runner.save_checkpoint(tmp_path / "l.ckpt", weights_only=True)
    other = Detector()
    other.load_state_dict(torch.load(tmp_path / "l.ckpt", weights_only=True)["state_dict"])
    assert np.array_equal(GradConScorer(other.model, other.criterion)(x).gradient, scores.gradient)


def test_reprs_are_short() -> None:
    trainer = GradConTrainer(ConvAutoencoder(1, SIZE), images(), SETTINGS)
    shown = "GradConTrainer(ConvAutoencoder, 32 x 1 x 8 x 8 images, 0 epochs, TrainingSettings("
    assert repr(trainer).startswith(shown)
    scorer = GradConScorer(trainer.model, trainer.loss)
    layers = len(scorer.layers)
    assert repr(scorer) == f"GradConScorer(ConvAutoencoder, {layers} layers, weight=0.12, batch_size=64)"
