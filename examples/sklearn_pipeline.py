"""scikit-learn: norms as the first step of a pipeline, by `FunctionTransformer`."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import gradfast

model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)).eval()


def log_norms(x: np.ndarray) -> np.ndarray:
    """log1p of squared norms, [n, L]."""
    return gradfast.grad_norms(model, torch.from_numpy(x), contrast="all-ones").values[:, 0].log1p().numpy()


detector = make_pipeline(FunctionTransformer(log_norms), StandardScaler(), LogisticRegression())
unknown = np.arange(100) >= 50
x = np.random.default_rng(0).standard_normal((100, 8), np.float32) * np.where(unknown, 5, 1)[:, None].astype(
    np.float32
)
print(detector.fit(x[::2], unknown[::2]).score(x[1::2], unknown[1::2]))
