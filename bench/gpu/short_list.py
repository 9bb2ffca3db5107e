"""One small call of every operator, for compute-sanitizer."""

from __future__ import annotations

import argparse

import torch

import gradfast.ops as ops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    device = parser.parse_args().device
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        make = lambda *size, dtype=dtype: torch.randn(*size, device=device).to(dtype)  # noqa: E731
        x, g = make(2, 70, 40), make(3, 2, 70, 24)
        for form in ("direct", "gram"):
            ops.linear_sqnorm(x, g, form=form)
        ops.linear_dot(x, g, make(24, 40))
        ops.linear_gram(x, g)
        ops.linear_sqnorm(make(2, 1, 40), make(3, 2, 1, 24), form="rank_one")
        image, cotangent = make(2, 16, 9, 9), make(3, 2, 24, 9, 9)
        geometry = ([3, 3], [1, 1], [1, 1], [1, 1])
        for form in ("direct", "gram", "pixel_gram"):
            ops.conv_sqnorm(image, cotangent, *geometry, form=form)
        ops.conv_dot(image, cotangent, make(24, 16, 3, 3), *geometry)
        ops.bias_sqnorm(cotangent)
        ops.affine_sqnorm(make(2, 24, 9, 9), cotangent)
        indices = torch.randint(0, 5, (2, 70), device=device)
        ops.embedding_sqnorm(indices, g)
        ops.embedding_dot(indices, g, make(5, 24))
        statistics = [torch.rand(24, device=device)]
        ops.gate_backward(
            g, make(2, 70, 24), False, [make(2, 70, 24)], statistics, statistics, statistics, True
        )
    if device == "cuda":
        torch.cuda.synchronize()
    print("short list: ok")


if __name__ == "__main__":
    main()
