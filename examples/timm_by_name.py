"""timm: any classifier by its name; features by layer."""

import timm
import torch

import gradfast

model = timm.create_model("mobilenetv3_small_050", pretrained=False, num_classes=5).eval()
images = torch.randn(2, 3, 64, 64)
norms = gradfast.grad_norms(model, images, contrast="all-ones")
for name in ("conv_stem", "blocks.1", "classifier"):
    print(name, norms.select(name).values.sum((1, 2)).tolist())
