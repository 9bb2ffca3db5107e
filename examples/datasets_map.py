"""Hugging Face datasets: norms as a column, by `map`."""

import numpy as np
import torch
from datasets import Dataset

import gradfast

model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
images = Dataset.from_dict({"pixels": np.random.default_rng(0).random((20, 8, 8), np.float32)}).with_format(
    "torch"
)
scored = images.map(
    lambda batch: {"norms": gradfast.grad_norms(model, batch["pixels"], contrast="all-ones").values[:, 0]},
    batched=True,
    batch_size=8,
)
print(scored.column_names, scored[0]["norms"])
