"""Hugging Face transformers: a ViT, held against each of its labels."""

import torch
from transformers import ViTConfig, ViTForImageClassification

import gradfast

config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8, num_labels=3)  # fmt: skip
model = ViTForImageClassification(config).eval()
norms = gradfast.grad_norms(model, {"pixel_values": torch.randn(2, 3, 32, 32)})
for row, label in enumerate(model.config.id2label.values()):
    print(label, norms.values[:, row].sum(-1).tolist())
