"""The examples run, as pasted; and the libraries that they show give the norms of plain autograd."""

from __future__ import annotations

import runpy
import warnings
from pathlib import Path
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
NEEDS = {"timm": "timm", "transformers": "transformers", "datasets": "datasets", "lightning": "lightning"}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
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


def test_lightning_callback_logs_what_grad_norms_gives() -> None:
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
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}  # fmt: skip
    trainer = lightning.Trainer(accelerator="cpu", callbacks=[GradNormsCallback(groups=["net.2"], batches=2)], **quiet)  # fmt: skip
    trainer.validate(model, data, verbose=False)
    wanted = gradfast.grad_norms(model.eval(), x[:16], contrast="all-ones")
    logged = trainer.callback_metrics
    np.testing.assert_allclose(logged["grad_norms/all"], wanted.values.sum(-1).mean(), rtol=1e-4)
    np.testing.assert_allclose(
        logged["grad_norms/net.2"], wanted.select("net.2").values.sum(-1).mean(), rtol=1e-4
    )
    with pytest.raises(InputError, match="batches: got 0"):
        GradNormsCallback(batches=0)
