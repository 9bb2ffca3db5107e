"""Whole networks in float32 against plain autograd in float64: all parameters, all classes."""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType

import pytest
import torch
from closeness import assert_close
from kinks import settled
from torch import Tensor, nn
from zoo import Case
from zoo.networks import FULL_SIZE, NETWORKS

from gradfast import reference


def check(model: nn.Module, x: Tensor, api: ModuleType, tolerance: float = 1e-4) -> None:
    x = settled(model, x, count=2)
    assert len(x) == 2, "too few samples without a kink within rounding: take another seed"
    result = api.grad_norms(model, x)
    truth = reference.grad_norms(model, x, dtype=torch.float64)
    assert result.layers == truth.layers == tuple(name for name, _ in model.named_parameters())
    assert result.unused == ()
    assert result.fallback == ()
    torch.testing.assert_close(result.logits, truth.logits.float(), rtol=1e-4, atol=1e-4)
    assert_close(result.values, truth.values, truth.layers, tolerance)


@pytest.mark.parametrize("case", NETWORKS.values(), ids=lambda case: case.name)
def test_network(case: Case, api: ModuleType) -> None:
    check(*case.build(), api)


@pytest.mark.slow
@pytest.mark.parametrize("case", FULL_SIZE.values(), ids=lambda case: case.name)
def test_network_of_full_size(case: Case, api: ModuleType) -> None:
    check(*case.build(), api)


@pytest.mark.shared
@pytest.mark.parametrize("depth", [20, 56])
def test_trained_network_on_photos(depth: int, shared: Path, api: ModuleType) -> None:
    """A trained network is sure of most images, so that 1 - p of the predicted class is small."""
    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image
    from safetensors.torch import load_file

    from gradfast.models import cifar_resnet

    model = getattr(cifar_resnet, f"resnet{depth}")()
    model.load_state_dict(load_file(shared / f"cifar10-resnet{depth}.safetensors"))
    rows = pq.ParquetFile(shared / "cifar10-test.parquet").read_row_group(0)["image"][:10]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(row.as_py())).convert("RGB")) for row in rows])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    check(model.eval(), (x - mean[:, None, None]) / std[:, None, None], api)
