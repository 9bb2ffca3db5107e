"""Detectors as postprocessors of OpenOOD 1.5, which its evaluation API takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from torch import Tensor, nn

from gradfast.detectors import Detector
from gradfast.errors import InputError

try:
    from openood.postprocessors import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        BasePostprocessor,
    )
except ImportError as error:
    raise InputError(
        f"gradfast.integrations.openood needs OpenOOD, which cannot be imported ({error}): pip install"
        " git+https://github.com/Jingkang50/OpenOOD"
    ) from error

__all__ = ["DetectorPostprocessor"]


class DetectorPostprocessor(BasePostprocessor):  # type: ignore[misc]
    """Fits a detector when OpenOOD sets it up, and gives minus its score as the confidence.

    ::

        Evaluator(net, id_name="cifar10", postprocessor=DetectorPostprocessor(Purview(), contrast="all-ones"))

    Args:
        detector: unfitted; it is cloned, so that one postprocessor may serve several evaluators.
        known: the split of the in-distribution set that it is fitted to: "train" or "val".
        outliers: whether it is also fitted to OpenOOD's validation outliers, which `Purview` needs; say so where
            results are compared, for most postprocessors see none.
        limit: samples of each that it is fitted to.
        **settings: of `detector.bind`, such as ``contrast``, ``layers`` and ``memory_budget``.
    """

    APS_mode = False  # OpenOOD's search for hyperparameters: there are none
    hyperparam_search_done = True

    def __init__(
        self,
        detector: Detector,
        *,
        known: str = "val",
        outliers: bool = True,
        limit: int = 1000,
        **settings: Any,
    ) -> None:
        super().__init__(config=None)
        if known not in ("train", "val"):
            raise InputError(f"known: got {known!r}; wanted 'train' or 'val'")
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InputError(f"limit: got {limit!r}; wanted an int of at least 1")
        self.detector, self.known, self.outliers, self.limit = detector, known, outliers, limit
        self.settings = settings
        self.fitted: Detector | None = None

    def setup(
        self, net: nn.Module, id_loader_dict: Mapping[str, Any], ood_loader_dict: Mapping[str, Any]
    ) -> None:
        """Fits a clone of the detector on ``net``; called by the evaluator."""
        net.eval()
        device = _device(net)
        batches = _batches(id_loader_dict[self.known], self.limit, device, known=True)
        if self.outliers:
            batches += _batches(ood_loader_dict["val"], self.limit, device, known=False)
        self.fitted = clone(self.detector).bind(net, **self.settings).fit(batches)

    def postprocess(self, net: nn.Module, data: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted classes int64 [B] and confidences float32 [B], higher = more in distribution.

        Raises:
            InputError: before `setup`.
        """
        if self.fitted is None:
            raise InputError("DetectorPostprocessor: setup has not been called; the evaluator does it")
        with torch.no_grad():
            predictions = net(data).argmax(1)
        return predictions, -self.fitted.predict_inputs(data)

    def inference(
        self, net: nn.Module, data_loader: Iterable[Mapping[str, Any]], progress: bool = True
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        """Predictions, confidences and labels [n] of a loader of OpenOOD, on the device of ``net``, GPU or not.

        ``progress`` is taken for OpenOOD's sake; nothing is shown.
        """
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for batch in data_loader:
            predictions, confidences = self.postprocess(net, batch["data"].to(_device(net)))
            found.append((predictions.cpu(), confidences.cpu(), batch["label"].cpu()))
        if not found:
            raise InputError("data_loader: it gave no samples; wanted at least one")
        predictions, confidences, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        return predictions.numpy(), confidences.numpy(), labels.numpy()


def _batches(
    loader: Iterable[Mapping[str, Any]], limit: int, device: torch.device, *, known: bool
) -> list[tuple[Tensor, Tensor]]:
    """The first samples of a loader; outliers are labelled -1, as detectors want it."""
    batches: list[tuple[Tensor, Tensor]] = []
    left = limit
    for batch in loader:
        x, y = batch["data"][:left].to(device), batch["label"][:left].cpu()
        batches.append((x, y if known else torch.full_like(y, -1)))
        left -= len(x)
        if left <= 0:
            break
    return batches


def _device(net: nn.Module) -> torch.device:
    parameter = next(net.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
