"""`grad_norms` of whole networks against other ways to the same numbers, and against less work: time and peak memory."""

from __future__ import annotations

import argparse
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gradfast

from . import timing


def resnet18_32(classes: int) -> nn.Module:
    """ResNet-18 for 32x32: a 3x3 stem without pooling."""
    from torchvision.models import resnet18

    model = resnet18(num_classes=classes)
    model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    model.maxpool = nn.Identity()
    return model


def resnet50_224(classes: int) -> nn.Module:
    from torchvision.models import resnet50

    return resnet50(num_classes=classes)


def tiny(classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)
    )


def cotangents(logits: Tensor) -> Tensor:
    """softmax(z) - e_c for every class, [C, B, K]."""
    eye = torch.eye(logits.shape[1], device=logits.device)
    return logits.softmax(1)[None] - eye[:, None]


def input_gradient(model: nn.Module, x: Tensor) -> Tensor:
    """torch's class-batched gradient of the input alone: no norms at all."""
    x = x.detach().requires_grad_()
    logits = model(x)
    (grad,) = torch.autograd.grad(logits, x, cotangents(logits.detach()), is_grads_batched=True)
    return grad


def vmap_norms(model: nn.Module, x: Tensor) -> list[Tensor]:
    """vmap over classes and samples of the gradient, one tensor of [C, B, *parameter] each."""
    from torch.func import functional_call, grad, vmap

    parameters = {n: p.detach() for n, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, (parameters, buffers), (image[None],))
        return nn.functional.cross_entropy(logits, label[None])

    of_classes = vmap(grad(loss), in_dims=(None, None, 0))
    labels = torch.arange(model(x[:1]).shape[1], device=x.device)
    found = vmap(of_classes, in_dims=(None, 0, None))(parameters, x, labels)
    return [g.flatten(2).square().sum(2) for g in found.values()]


def backpack_norms(model: nn.Module, x: Tensor) -> None:
    """BackPACK's BatchL2Grad, a backward for each class."""
    from backpack import backpack, extend
    from backpack.extensions import BatchL2Grad

    extended = extend(model)
    loss = extend(nn.CrossEntropyLoss(reduction="sum"))
    for c in range(model(x[:1]).shape[1]):
        with backpack(BatchL2Grad()):
            loss(extended(x), torch.full((len(x),), c, device=x.device)).backward()


WAYS: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "gradfast": lambda model, x: gradfast.grad_norms(model, x),
    "gradfast bf16": lambda model, x: gradfast.grad_norms(model, x, dtype=torch.bfloat16),
    "input gradient only": input_gradient,
    "vmap": vmap_norms,
    "BackPACK": backpack_norms,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    device = arguments.device
    # (network, classes, image, batch, ways)
    every = list(WAYS)
    problems: list[tuple[Callable[[int], nn.Module], int, int, int, list[str]]] = [
        (resnet18_32, 10, 32, 64, every),
        (resnet50_224, 10, 224, 16, every),
        (
            resnet50_224,
            1000,
            224,
            2,
            every[:3],
        ),  # the others would need the whole time, or hundreds of gigabytes
    ]
    if device != "cuda":
        problems = [(tiny, 3, 8, 2, every)]
    results: list[dict[str, Any]] = []
    for build, classes, size, batch, ways in problems:
        torch.manual_seed(0)
        model = build(classes).to(device).eval()
        x = torch.randn(batch, 3, size, size, device=device)
        for way in ways:
            entry: dict[str, Any] = {
                "network": build.__name__,
                "classes": classes,
                "batch": batch,
                "way": way,
            }
            try:
                work = WAYS[way]
                entry["seconds_per_sample"] = timing.seconds(lambda: work(model, x), device, 2.0) / batch  # noqa: B023
                entry["peak_bytes"] = timing.peak_memory(lambda: work(model, x), device)  # noqa: B023
            except Exception as error:  # out of memory, or a peer that is not installed
                entry["error"] = "".join(traceback.format_exception_only(error)).strip()[:300]
                if device == "cuda":
                    torch.cuda.empty_cache()
            results.append(entry)
            arguments.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
