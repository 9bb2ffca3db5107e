"""pytorch-ood: a detector in its habits, measured by its metrics, beside one of its own."""

import torch
from pytorch_ood.detector import EnergyBased
from pytorch_ood.metrics import OODMetrics

from gradfast.detectors import Purview

model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)).eval()
x = torch.randn(200, 8) * torch.where(torch.arange(200) < 100, 1, 3)[:, None]
labels = torch.where(torch.arange(200) < 100, 0, -1)  # below 0: unknown
loader = [(x[::2], labels[::2])]
for detector in (Purview().bind(model, contrast="all-ones").fit(loader), EnergyBased(model)):
    metrics = OODMetrics()
    metrics.update(detector(x[1::2]), labels[1::2])
    print(type(detector).__name__, metrics.compute()["AUROC"])
