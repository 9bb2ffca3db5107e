"""The DenseNet-BC networks for 32x32 images of Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, section 4.

Three dense blocks of bottleneck layers (1x1 to 4k channels, 3x3 to k), each layer fed with all earlier ones of its block;
between blocks a 1x1 convolution that halves the channels and a 2x2 average. No dropout, as the paper with augmentation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CifarDenseNet", "densenet_bc_40_12", "densenet_bc_100_12"]

_BOTTLENECK = 4  # channels of a bottleneck, in growth rates


class _Layer(nn.Module):
    """BN-ReLU-1x1-BN-ReLU-3x3; its output is appended to its input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, _BOTTLENECK * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(_BOTTLENECK * growth)
        self.conv2 = nn.Conv2d(_BOTTLENECK * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        return torch.cat((x, out), 1)


class _Transition(nn.Module):
    """BN-ReLU-1x1 and a 2x2 average."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class CifarDenseNet(nn.Module):
    """DenseNet-BC of a given depth and growth rate k; images [B, 3, 32, 32] to logits [B, num_classes].

    Args:
        depth: ``6 * layers + 4``, with as many bottleneck layers in each of the three blocks.
        growth: k, the channels that a layer adds.
        num_classes: K.
    """

    def __init__(self, depth: int, growth: int, num_classes: int = 10) -> None:
        super().__init__()
        layers = (depth - 4) // 6
        channels = 2 * growth
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.dense1 = _block(channels, layers, growth)
        channels += layers * growth
        self.trans1 = _Transition(channels, channels // 2)
        channels //= 2
        self.dense2 = _block(channels, layers, growth)
        channels += layers * growth
        self.trans2 = _Transition(channels, channels // 2)
        channels //= 2
        self.dense3 = _block(channels, layers, growth)
        channels += layers * growth
        self.bn = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        out = self.trans1(self.dense1(self.conv1(x)))
        out = self.dense3(self.trans2(self.dense2(out)))
        logits: Tensor = self.linear(F.relu(self.bn(out)).mean(dim=(2, 3)))
        return logits


def _block(inputs: int, layers: int, growth: int) -> nn.Sequential:
    return nn.Sequential(*(_Layer(inputs + i * growth, growth) for i in range(layers)))


def densenet_bc_40_12(num_classes: int = 10) -> CifarDenseNet:
    """DenseNet-BC, L = 40, k = 12: 0.18M parameters."""
    return CifarDenseNet(40, 12, num_classes)


def densenet_bc_100_12(num_classes: int = 10) -> CifarDenseNet:
    """DenseNet-BC, L = 100, k = 12: 0.77M parameters."""
    return CifarDenseNet(100, 12, num_classes)
