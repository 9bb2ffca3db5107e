"""The models of the benchmarks, with random weights, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet

from gradfast.bench import Task

TASKS: dict[str, Callable[[], Task]] = {}


Make = Callable[[], tuple[nn.Module, Callable[[int], Tensor]]]


def build(name: str) -> Task:
    """A task by name; for child processes, which take functions of modules only."""
    return TASKS[name]()


def task(name: str, batch: int, classes: int) -> Callable[[Make], Make]:
    """Register a function that gives a model and draws samples for it, for ``batch`` samples and the first ``classes`` classes."""

    def add(make: Make) -> Make:
        def build() -> Task:
            torch.manual_seed(0)
            model, draw = make()
            return Task(name, model.eval(), draw(batch), torch.arange(classes))

        TASKS[name] = build
        return make

    return add


def images(side: int) -> Callable[[int], Tensor]:
    return lambda batch: torch.randn(batch, 3, side, side)


class BasicBlock(resnet.BasicBlock):
    """torchvision's, with the residual sum out of place: BackPACK's and Opacus' backward hooks forbid ``out += identity``."""

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + identity)


class Bottleneck(resnet.Bottleneck):
    """The same for the deeper networks."""

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        return self.relu(self.bn3(self.conv3(out)) + identity)


def small_image_resnet18(classes: int = 10) -> nn.Module:
    """torchvision's ResNet-18 with the stem for 32 x 32 images: 62 parameter tensors, as in the published Purview code."""
    model = resnet.ResNet(BasicBlock, [2, 2, 2, 2], num_classes=classes)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


@task("resnet18-32", 16, 10)
def _():
    return small_image_resnet18(), images(32)


class WideBlock(nn.Module):
    """A pre-activation block of WRN-28-10's second stage (Zagoruyko & Komodakis, BMVC 2016): 320 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.relu2(self.bn2(self.conv1(self.relu1(self.bn1(x))))))


@task("wrn-28-10-block", 4, 10)
def _():
    stem = nn.Conv2d(3, 320, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(
        stem, WideBlock(320), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(320, 10)
    ), images(32)


class DenseLayer(nn.Module):
    """Bottleneck layer of DenseNet-BC (Huang et al., CVPR 2017): 1x1 to 4k channels, 3x3 to k."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.bn2, self.conv2 = (
            nn.BatchNorm2d(4 * growth),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv2(self.relu2(self.bn2(self.conv1(self.relu1(self.bn1(x))))))], 1)


def densenet_bc(depth: int, growth: int, classes: int) -> nn.Module:
    layers = (depth - 4) // 6
    channels = 2 * growth
    parts: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
    for stage in range(3):
        for _ in range(layers):
            parts.append(DenseLayer(channels, growth))
            channels += growth
        parts += [nn.BatchNorm2d(channels), nn.ReLU()]
        if stage < 2:
            parts += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


@task("densenet-bc-100-12", 4, 10)
def _():
    return densenet_bc(100, 12, 10), images(32)


def vit_s(side: int, patch: int) -> nn.Module:
    import timm

    return timm.create_model(
        "vit_small_patch16_224", pretrained=False, img_size=side, patch_size=patch, num_classes=10
    )


@task("vit-s-65", 4, 10)
def _():
    return vit_s(32, 4), images(32)


@task("vit-s-197", 2, 10)
def _():
    return vit_s(224, 16), images(224)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(b, t, d))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.fc, self.act, self.out = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.ln_1(x))
        return x + self.out(self.act(self.fc(self.ln_2(x))))


class LastToken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, -1]


def language_model(width: int = 512, heads: int = 8, depth: int = 1, vocabulary: int = 32_000) -> nn.Module:
    """Embedding, blocks, and a head on the last token."""
    return nn.Sequential(
        nn.Embedding(vocabulary, width),
        *(Block(width, heads) for _ in range(depth)),
        nn.LayerNorm(width),
        LastToken(),
        nn.Linear(width, vocabulary, bias=False),
    )


@task("gpt-block-512", 2, 10)
def _():
    return language_model(), lambda batch: torch.randint(32_000, (batch, 512))


@task("resnet50-224", 2, 10)
def _():
    return resnet.ResNet(Bottleneck, [3, 4, 6, 3]), images(224)


@task("resnet50-224-n1000", 1, 1000)
def _():
    return resnet.ResNet(Bottleneck, [3, 4, 6, 3]), images(224)


@task("mlp", 256, 10)
def _():
    widths = [784, 512, 512, 512]
    parts = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*parts, nn.Linear(512, 10)), lambda batch: torch.randn(batch, 784)
