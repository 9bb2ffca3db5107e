"""Whole networks: torchvision's, most of them narrowed so that the plain-autograd reference is quick, and a GPT."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models import convnext, densenet, resnet, swin_transformer

from zoo.base import Registry

NETWORKS = Registry()
FULL_SIZE = Registry()


def images(registry: Registry, name: str, make: Callable[[], nn.Module], pixels: int, batch: int = 4) -> None:
    registry.put(name, lambda: (make(), torch.randn(batch, 3, pixels, pixels)))


@NETWORKS.add("mlp")
def _() -> tuple[nn.Module, Tensor]:
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 10)
    )
    return net, torch.randn(4, 1, 8, 8)


@NETWORKS.add("cnn")
def _() -> tuple[nn.Module, Tensor]:
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 24, 3, padding=1),
        nn.BatchNorm2d(24),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(24, 10),
    )
    return net, torch.randn(4, 1, 16, 16)


class SmallImageResNet(resnet.ResNet):
    """ResNet-18 with the stem for 32 x 32 images: a 3 x 3 convolution and no pooling; narrowed by four."""

    def __init__(self) -> None:
        super().__init__(resnet.BasicBlock, [2, 2, 2, 2], num_classes=10)
        self.inplanes = 16
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1, self.maxpool = nn.BatchNorm2d(16), nn.Identity()
        for i, width in enumerate((16, 32, 64, 128), start=1):
            setattr(
                self, f"layer{i}", self._make_layer(resnet.BasicBlock, width, 2, stride=1 if i == 1 else 2)
            )
        self.fc = nn.Linear(128, 10)


images(NETWORKS, "resnet18-32px", SmallImageResNet, 32)
images(NETWORKS, "resnet18", partial(torchvision.models.resnet18, num_classes=10), 48)
images(
    NETWORKS,
    "densenet",
    partial(
        densenet.DenseNet, growth_rate=8, block_config=(2, 3, 3, 2), num_init_features=16, num_classes=10
    ),
    32,
)
images(NETWORKS, "mobilenet-v3", partial(torchvision.models.mobilenet_v3_small, num_classes=10), 48)
images(NETWORKS, "shufflenet", partial(torchvision.models.shufflenet_v2_x0_5, num_classes=10), 48)
images(NETWORKS, "efficientnet", lambda: narrow_efficientnet(), 48)
images(
    NETWORKS,
    "convnext",
    lambda: convnext.ConvNeXt(
        [convnext.CNBlockConfig(24, 48, 2), convnext.CNBlockConfig(48, None, 2)],
        layer_scale=0.5,
        num_classes=10,
    ),
    32,
)
for version, block in (
    (1, swin_transformer.SwinTransformerBlock),
    (2, swin_transformer.SwinTransformerBlockV2),
):
    images(
        NETWORKS,
        f"swin-v{version}",
        partial(
            swin_transformer.SwinTransformer,
            patch_size=[4, 4],
            embed_dim=24,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=[4, 4],
            num_classes=10,
            block=block,
            downsample_layer=(swin_transformer.PatchMerging, swin_transformer.PatchMergingV2)[version - 1],
        ),
        32,
    )
images(
    NETWORKS,
    "vit",
    partial(
        torchvision.models.VisionTransformer,
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=32,
        mlp_dim=64,
        num_classes=10,
    ),
    32,
)


def narrow_efficientnet() -> nn.Module:
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    blocks = [
        MBConvConfig(1, 3, 1, 32, 16, 1),
        MBConvConfig(6, 3, 2, 16, 24, 2),
        MBConvConfig(6, 5, 2, 24, 40, 2),
    ]
    return EfficientNet(blocks, dropout=0.2, num_classes=10, last_channel=160)


class Block(nn.Module):
    """A pre-norm transformer block with fused causal attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = (
            h.view(b, t, self.heads, -1).transpose(1, 2) for h in self.qkv(self.ln_1(x)).split(d, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, d)
        x = x + self.proj(y)
        return x + self.out(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """A small GPT-2: learned positions, embeddings tied with the head, logits of the next token."""

    def __init__(
        self, vocabulary: int = 13, length: int = 12, width: int = 16, heads: int = 2, depth: int = 2
    ) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.ln_f = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.ln_f(self.blocks(self.wte(tokens) + self.wpe(positions)))
        return self.head(x[:, -1])


NETWORKS.put("gpt-tied", lambda: (GPT(), torch.randint(13, (2, 12))))

for name in (
    "densenet121",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "convnext_tiny",
    "regnet_y_400mf",
    "mnasnet0_5",
    "resnext50_32x4d",
    "squeezenet1_1",
):
    images(
        FULL_SIZE,
        name,
        partial(getattr(torchvision.models, name), num_classes=10),
        64,
    )
for name in ("swin_t", "swin_v2_t"):
    images(FULL_SIZE, name, partial(getattr(torchvision.models, name), num_classes=10), 64)
images(
    FULL_SIZE,
    "vit_b_32",
    partial(torchvision.models.vit_b_32, image_size=64, num_classes=10),
    64,
)
images(
    FULL_SIZE,
    "maxvit",
    partial(
        torchvision.models.MaxVit,
        input_size=(64, 64),
        stem_channels=16,
        partition_size=4,
        block_channels=[16, 32],
        block_layers=[1, 2],
        head_dim=8,
        stochastic_depth_prob=0.0,
        num_classes=10,
    ),
    64,
)
images(
    FULL_SIZE,
    "googlenet",
    partial(torchvision.models.googlenet, num_classes=10, aux_logits=False, init_weights=False),
    64,
)
