"""A small convolutional classifier of 8x8 digits, and its training in a few seconds."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DigitNet", "accuracy", "train"]


class DigitNet(nn.Module):
    """Two convolutions with batch normalisation, a hidden layer and a linear head: [B, 1, 8, 8] -> [B,
    classes].
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.hidden = nn.Linear(32 * 16, 64)
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, 1, 8, 8]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        logits: Tensor = self.head(F.relu(self.hidden(x.flatten(1))))
        return logits


def train(
    x: Tensor,
    y: Tensor,
    *,
    epochs: int = 30,
    seed: int = 0,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> DigitNet:
    """A network trained on images [n, 1, 8, 8] and labels int64 [n], in eval mode.

    AdamW with a cosine schedule; torch's global random state is left as it was found.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DigitNet(int(y.max()) + 1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        for epoch in range(epochs):
            for rows in torch.randperm(len(x)).split(64):
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
            schedule.step()
            on_epoch(epoch)
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of images [n, ...] whose largest logit is that of their label."""
    return float((model(x).argmax(1) == y).float().mean())
