"""The norms that a detector was fitted to, from a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gradfast.detectors.inputs import FeatureSchema
from gradfast.detectors.readers import NormReader
from gradfast.errors import InputError, describe
from gradfast.extractor import FeatureExtractor

__all__ = ["norm_reader"]

_OPERANDS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def norm_reader(model: nn.Module, settings: dict[str, Any], schema: FeatureSchema | None) -> NormReader:
    """A reader with the settings of `FeatureExtractor`; those of `schema` stand in for what is not given.

    Raises:
        InputError: settings that `FeatureExtractor` does not take.
    """
    known = {}
    if schema is not None:
        # Targets and callables are known by a digest or a name, and must be given again.
        known = {k: v for k, v in schema.settings.items() if k in ("contrast", "classes") or k == "loss"}
        known = {
            k: v for k, v in known.items() if v is not None and not isinstance(v, dict) and "." not in str(v)
        }
        if schema.layers:
            known["layers"] = list(schema.layers)
        if schema.settings.get("dtype") in _OPERANDS:
            known["dtype"] = _OPERANDS[schema.settings["dtype"]]
    try:
        extractor = FeatureExtractor(model, **{**known, **settings})
    except TypeError as error:
        raise InputError(
            f"settings: got {describe(settings)}; wanted those of FeatureExtractor ({error})"
        ) from error
    return NormReader(extractor)
