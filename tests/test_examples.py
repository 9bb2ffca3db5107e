"""The examples run, as pasted; and the libraries that they show give the norms of plain autograd."""

from __future__ import annotations

import csv
import importlib
import runpy
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from closeness import assert_close
from torch import nn

import gradfast
from gradfast import reference
from gradfast.errors import InputError

EXAMPLES = Path(__file__).parent.parent / "examples"
NEEDS = {
    "timm": "timm",
    "transformers": "transformers",
    "datasets": "datasets",
    "lightning": "lightning",
    "pytorch_ood": "pytorch_ood",
}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture
def openood(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`openood.postprocessors`: OpenOOD's own where it is installed, else a module with a base class of its signatures.

    OpenOOD is not on the package index. Its evaluator asks of a postprocessor that it is a `BasePostprocessor`, with `APS_mode`,
    `hyperparam_search_done`, `setup(net, id_loaders, ood_loaders)` and `inference(net, loader, progress)`.
    """
    try:
        return importlib.import_module("openood.postprocessors")
    except ImportError:
        pass

    class BasePostprocessor:
        def __init__(self, config: Any) -> None:
            self.config = config

    module = ModuleType("openood.postprocessors")
    module.BasePostprocessor = BasePostprocessor  # type: ignore[attr-defined]
    package = ModuleType("openood")
    package.postprocessors = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "openood", package)
    monkeypatch.setitem(sys.modules, "openood.postprocessors", module)
    monkeypatch.delitem(sys.modules, "gradfast.integrations.openood", raising=False)
    return module


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, openood: ModuleType
) -> None:
    for prefix, library in NEEDS.items():
        if path.stem.startswith(prefix):
            pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    runpy.run_path(str(path))
    assert capsys.readouterr().out.strip()


def agree(model: nn.Module, x: Any, x64: Any, **options: Any) -> None:
    """No fallback, and the norms of autograd in float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", gradfast.errors.FallbackWarning)
        found = gradfast.grad_norms(model, x, **options)
    wanted = reference.grad_norms(model.double(), x64, **options)
    assert found.layers == wanted.layers
    assert_close(found.values.double(), wanted.values, wanted.layers, 1e-3)


def test_vit_takes_a_dict_and_gives_logits() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=3)
    model = transformers.ViTForImageClassification(config).eval()
    x = torch.randn(3, 3, 16, 16)
    agree(model, {"pixel_values": x}, {"pixel_values": x.double()})


def test_bert_with_padding() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(**sizes, vocab_size=50, num_labels=3, max_position_embeddings=16)
    model = transformers.BertForSequenceClassification(config).eval()
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[0, 4:] = 0
    tokens = {"input_ids": torch.randint(1, 50, (3, 7)), "attention_mask": mask}
    agree(model, tokens, tokens)
    alone = {name: value[:1, :4] for name, value in tokens.items()}  # padding changes nothing
    padded = gradfast.grad_norms(model, tokens, layers="bert.encoder").values[:1]
    torch.testing.assert_close(padded, gradfast.grad_norms(model, alone, layers="bert.encoder").values)


def test_lightning_callback_logs_what_grad_norms_gives(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")
    from gradfast.integrations.lightning import GradNormsCallback

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("seen", float(len(batch[0])))

    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, torch.arange(20) % 3), batch_size=8)
    model = Classifier()
    quiet: dict[str, Any] = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}  # fmt: skip
    logger = lightning.pytorch.loggers.CSVLogger(tmp_path)  # an experiment tracker, as the trainer sees it
    quiet["logger"] = logger
    trainer = lightning.Trainer(accelerator="cpu", callbacks=[GradNormsCallback(groups=["net.2"], batches=2)], **quiet)  # fmt: skip
    trainer.validate(model, data, verbose=False)
    wanted = gradfast.grad_norms(model.eval(), x[:16], contrast="all-ones")
    logged = trainer.callback_metrics
    np.testing.assert_allclose(logged["grad_norms/all"], wanted.values.sum(-1).mean(), rtol=1e-4)
    np.testing.assert_allclose(
        logged["grad_norms/net.2"], wanted.select("net.2").values.sum(-1).mean(), rtol=1e-4
    )
    with Path(logger.log_dir, "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["grad_norms/all"]) == pytest.approx(float(logged["grad_norms/all"]), rel=1e-5)
    assert float(row["grad_norms/net.2"]) == pytest.approx(float(logged["grad_norms/net.2"]), rel=1e-5)
    with pytest.raises(InputError, match="batches: got 0"):
        GradNormsCallback(batches=0)


class TestOpenOOD:
    """What `openood.evaluation_api.Evaluator` does with a postprocessor, step by step."""

    def loaders(self) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Dropout(0.9), nn.Linear(16, 4))

        def loader(scale: float, label: int | None) -> list[dict[str, torch.Tensor]]:
            x = scale * torch.randn(30, 3, 2, 2)
            y = torch.arange(30) % 4 if label is None else torch.full((30,), label)
            return [{"data": x[i : i + 8], "label": y[i : i + 8]} for i in range(0, 30, 8)]

        known = {name: loader(1, None) for name in ("train", "val", "test")}
        return net, known, {"val": loader(5, -1), "near": {"noise": loader(5, -1)}}

    def test_an_evaluator_takes_it(self, openood: ModuleType) -> None:
        from gradfast.detectors import Purview
        from gradfast.detectors.metrics import auroc
        from gradfast.integrations.openood import DetectorPostprocessor

        net, known, unknown = self.loaders()
        post = DetectorPostprocessor(Purview(), contrast="all-ones")
        assert isinstance(post, openood.BasePostprocessor)
        with pytest.raises(InputError, match="setup has not been called"):
            post.inference(net, known["test"])
        post.setup(net, known, unknown)
        assert not net.training
        assert not post.APS_mode or post.hyperparam_search_done
        predictions, inside, labels = post.inference(net, known["test"], progress=False)
        _, outside, _ = post.inference(net, unknown["near"]["noise"], False)
        x = torch.cat([batch["data"] for batch in known["test"]])
        assert (predictions == net(x).argmax(1).numpy()).all()
        assert (labels == np.arange(30) % 4).all()
        assert [a.dtype for a in (predictions, inside, labels)] == [np.int64, np.float32, np.int64]
        # OpenOOD's confidence is higher for what is known.
        wanted = Purview().bind(net, contrast="all-ones").fit(
            [(b["data"], b["label"]) for b in (*known["val"], *unknown["val"])]
        )  # fmt: skip
        np.testing.assert_allclose(-inside, wanted.predict_inputs(x).numpy(), rtol=1e-5)
        assert auroc(-inside, -outside) > 0.9

    def test_without_outliers_and_within_a_limit(self, openood: ModuleType) -> None:
        from gradfast.detectors import OneClassNorms
        from gradfast.integrations.openood import DetectorPostprocessor

        net, known, unknown = self.loaders()
        read = []
        unknown["val"] = [{}]  # nothing may be read of it

        class Counted(list[Any]):
            def __iter__(self) -> Any:
                for batch in super().__iter__():
                    read.append(len(batch["data"]))
                    yield batch

        known["train"] = Counted(known["train"])
        post = DetectorPostprocessor(
            OneClassNorms(), known="train", outliers=False, limit=20, contrast="one-hot"
        )
        post.setup(net, known, unknown)
        assert read == [8, 8, 8]
        _, inside, _ = post.inference(net, known["test"])
        assert np.isfinite(inside).all()

    def test_mistakes(self, openood: ModuleType) -> None:
        from gradfast.detectors import Purview
        from gradfast.integrations.openood import DetectorPostprocessor

        with pytest.raises(InputError, match="known: got 'test'"):
            DetectorPostprocessor(Purview(), known="test")
        with pytest.raises(InputError, match="limit: got 0"):
            DetectorPostprocessor(Purview(), limit=0)
        net, known, unknown = self.loaders()
        post = DetectorPostprocessor(Purview())
        post.setup(net, known, unknown)
        with pytest.raises(InputError, match="no samples"):
            post.inference(net, [])
