"""torch's fused attention on the CPU, taken back for all rows: every argument, tile borders, and 16-bit operands."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradfast
from gradfast import reference
from gradfast.rules import attention

SAMPLES, HEADS, WIDTH, QUERIES, KEYS = 3, 2, 4, 5, 7


class Attend(nn.Module):
    """Queries from x, keys and values from its positions shifted and lengthened; ``options`` of the fused function."""

    def __init__(self, keys: int = QUERIES, **options: object) -> None:
        super().__init__()
        self.keys, self.options = keys, options
        self.q, self.kv = nn.Linear(6, HEADS * WIDTH), nn.Linear(6, 2 * HEADS * WIDTH)
        self.head = nn.Linear(HEADS * WIDTH, 4)
        self.mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(2, (HEADS, WIDTH)).transpose(1, 2)
        source = torch.cat([x.flip(1), x], 1)[:, : self.keys]
        k, v = self.kv(source).unflatten(2, (2, HEADS, WIDTH)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, **self.options)
        return self.head(torch.tanh(y.transpose(1, 2).flatten(2)).mean(1))


def is_recorded_fused(model: nn.Module, x: Tensor) -> bool:
    seen, stack = set(), [model(x).grad_fn]
    while stack:
        fn = stack.pop()
        if fn is not None and fn not in seen:
            seen.add(fn)
            stack += [f for f, _ in fn.next_functions]
    return any(fn.name() == "ScaledDotProductFlashAttentionForCpuBackward0" for fn in seen)


def additive(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def hiding(*shape: int) -> Tensor:
    mask = torch.rand(shape) > 0.4
    mask[..., 0] = True
    return mask


def blind() -> Tensor:
    """A query that sees no key."""
    mask = torch.ones(QUERIES, KEYS, dtype=torch.bool)
    mask[2] = False
    return mask


CASES = {
    "plain": (QUERIES, {}, None),
    "more keys than queries": (KEYS, {}, None),
    "causal": (QUERIES, {"is_causal": True}, None),
    "causal, more keys than queries": (KEYS, {"is_causal": True}, None),
    "scale": (QUERIES, {"scale": 0.3}, None),
    "mask of all": (KEYS, {}, additive(QUERIES, KEYS)),
    "mask of each head": (KEYS, {}, additive(1, HEADS, QUERIES, KEYS)),
    "mask of each sample": (KEYS, {}, additive(SAMPLES, 1, QUERIES, KEYS)),
    "mask that hides": (KEYS, {}, hiding(QUERIES, KEYS)),
    "blind query": (KEYS, {}, blind()),
}


@pytest.mark.parametrize(
    "tile", [1, 2 * 8 * QUERIES * KEYS, 1 << 20], ids=["one head, one row", "some", "all"]
)
@pytest.mark.parametrize("case", CASES)
def test_norms_are_autograds(case: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "TILE_BYTES", tile)
    torch.manual_seed(0)
    keys, options, mask = CASES[case]
    model = Attend(keys, **options).double().eval()
    x = torch.randn(SAMPLES, QUERIES, 6, dtype=torch.float64)
    if mask is not None and mask.dim() == 4 and mask.shape[0] == SAMPLES:
        model.mask = mask  # a sample's own mask cannot be sliced with it, so the batch must go as one
        values = gradfast.grad_norms(model, x).values
        for i in range(SAMPLES):
            model.mask = mask[i : i + 1]
            assert torch.allclose(values[i], reference.grad_norms(model, x[i : i + 1]).values[0], rtol=1e-9)
        return
    model.mask = mask
    assert is_recorded_fused(model, x)
    found, truth = gradfast.grad_norms(model, x), reference.grad_norms(model, x)
    assert truth.values.isfinite().all()
    assert torch.allclose(found.values, truth.values, rtol=1e-9)


def test_halves_are_within_two_percent() -> None:
    torch.manual_seed(0)
    model = Attend(KEYS).eval()
    x = torch.randn(SAMPLES, QUERIES, 6)
    found = gradfast.grad_norms(model, x, dtype=torch.bfloat16).values
    truth = reference.grad_norms(model, x).values
    assert ((found - truth).abs().sum(2) <= 0.02 * truth.sum(2)).all()
