"""OpenOOD: a detector as a postprocessor, which `openood.evaluation_api.Evaluator(..., postprocessor=...)` takes."""

import torch

from gradfast.detectors import Purview
from gradfast.integrations.openood import DetectorPostprocessor

net = torch.nn.Sequential(
    torch.nn.Flatten(), torch.nn.Linear(48, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)
)
known = [{"data": torch.randn(40, 3, 4, 4), "label": torch.arange(40) % 4}]  # loaders as OpenOOD makes them
unknown = [{"data": 5 * torch.randn(40, 3, 4, 4), "label": torch.full((40,), -1)}]

postprocessor = DetectorPostprocessor(Purview(), contrast="all-ones")
postprocessor.setup(net, {"val": known}, {"val": unknown})  # the evaluator calls these two
for loader in (known, unknown):
    predictions, confidences, labels = postprocessor.inference(net, loader)
    print(confidences.mean())
