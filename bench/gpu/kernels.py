"""Each kernel at layers of ResNet-50 and ViT-B, as a share of the matrix rate and the copy bandwidth measured beside it."""

from __future__ import annotations

import argparse
import json
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gradfast.ops as ops

from . import shapes, timing
from .shapes import Layer

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32, "fp32": torch.float32}


def operands(layer: Layer, rows: int, samples: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """x and g, channels-last, of zero mean."""
    if layer.linear:
        x = torch.randn(samples, layer.size, layer.inputs, device=device, dtype=dtype)
        return x, torch.randn(rows, samples, layer.size, layer.outputs, device=device, dtype=dtype)
    image = layer.size * layer.stride
    x = torch.randn(samples, image, image, layer.inputs, device=device, dtype=dtype).movedim(-1, 1)
    g = torch.randn(rows, samples, layer.size, layer.size, layer.outputs, device=device, dtype=dtype)
    return x, g.movedim(-1, 2)


def sqnorm(layer: Layer, x: Tensor, g: Tensor, form: str) -> Tensor:
    if layer.linear:
        return ops.linear_sqnorm(x, g, form=form)
    k, s = [layer.kernel] * 2, [layer.stride] * 2
    return ops.conv_sqnorm(x, g, k, s, [(layer.kernel - 1) // 2] * 2, [1, 1], form=form)


def contraction(
    layer: Layer, form: str, math: str, rows: int, samples: int, device: str, rates: dict[str, float]
) -> dict[str, Any]:
    dtype = DTYPES[math]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = math == "tf32"
    x, g = operands(layer, rows, samples, dtype, device)
    taken = timing.seconds(lambda: sqnorm(layer, x, g, form), device)
    count = layer.direct_flops if form == "direct" else layer.gram_flops
    flops, moved = samples * count(rows), samples * layer.bytes(rows, x.element_size())
    return {
        "layer": layer.name,
        "form": form,
        "math": math,
        "rows": rows,
        "samples": samples,
        "seconds": taken,
        "matrix_share": flops / taken / rates[math],
        "bandwidth_share": moved / taken / rates["copy"],
    }


def pointwise(
    rows: int, samples: int, positions: int, channels: int, device: str, rates: dict[str, float]
) -> dict[str, Any]:
    """The fused gate of ReLU and BatchNorm: reads g, gate and x, writes the scaled cotangent."""
    dtype = torch.bfloat16
    g = torch.randn(rows, samples, positions, channels, device=device, dtype=dtype)
    gate, x = (torch.randn(samples, positions, channels, device=device, dtype=dtype) for _ in range(2))
    mean, rstd, factor = (torch.rand(channels, device=device) for _ in range(3))
    taken = timing.seconds(
        lambda: ops.gate_backward(g, gate, False, [x], [mean], [rstd], [factor], False), device
    )
    moved = (2 * g.numel() + 2 * x.numel()) * x.element_size()
    return {"kernel": "gate_backward", "positions": positions, "channels": channels, "seconds": taken,
            "bandwidth_share": moved / taken / rates["copy"]}  # fmt: skip


def against_backward_data(layer: Layer, rows: int, samples: int, device: str) -> dict[str, Any]:
    """All rows' norms against the passes that carry the same cotangents to the layer's input."""
    x, g = operands(layer, rows, samples, torch.bfloat16, device)
    weight = torch.randn(
        layer.outputs, layer.inputs, layer.kernel, layer.kernel, device=device, dtype=torch.bfloat16
    )
    weight = weight.contiguous(memory_format=torch.channels_last)
    padding, image = (layer.kernel - 1) // 2, [layer.inputs, *x.shape[2:]]
    flat = g.reshape(rows * samples, *g.shape[2:]).contiguous(memory_format=torch.channels_last)
    size = [rows * samples, *image]
    norms = timing.seconds(lambda: sqnorm(layer, x, g, "auto"), device)
    data = timing.seconds(
        lambda: torch.nn.grad.conv2d_input(size, weight, flat, stride=layer.stride, padding=padding), device
    )
    return {"layer": layer.name, "norms": norms, "backward_data": data, "ratio": norms / data}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    device = arguments.device
    cuda = device == "cuda"
    rates = {
        "bf16": timing.matrix_rate(torch.bfloat16, device),
        "fp16": timing.matrix_rate(torch.float16, device),
        "tf32": timing.matrix_rate(torch.float32, device, tf32=True),
        "fp32": timing.matrix_rate(torch.float32, device),
        "copy": timing.copy_bandwidth(device),
    }
    results: dict[str, Any] = {
        "rates": rates,
        "contractions": [],
        "pointwise": [],
        "backward_data": [],
        "errors": [],
    }
    rows, samples = (10, 32) if cuda else (2, 2)
    layers = [*shapes.RESNET50, *shapes.VIT_B] if cuda else shapes.TINY
    maths = ["bf16", "tf32", "fp32"] if cuda else ["fp32"]

    def attempt(kind: str, *work: Any) -> None:
        try:
            function, *rest = work
            results[kind].append(function(*rest))
        except (
            Exception
        ):  # out of memory, or a form that does not take this layer: told, and the rest goes on
            results["errors"].append({"of": [str(w) for w in work], "error": traceback.format_exc(limit=2)})
        arguments.out.write_text(json.dumps(results, indent=1))

    for layer in layers:
        for math in maths:
            forms = ["direct"] if layer.positions > 1024 else ["direct", "gram"]
            for form in forms:
                attempt("contractions", contraction, layer, form, math, rows, samples, device, rates)
        if not layer.linear:
            attempt("backward_data", against_backward_data, layer, rows, samples, device)
    for positions, channels in [(3136, 64), (784, 128), (196, 1024), (49, 2048)] if cuda else [(36, 8)]:
        attempt("pointwise", pointwise, rows, samples, positions, channels, device, rates)


if __name__ == "__main__":
    main()
