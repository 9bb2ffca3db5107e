"""What `fit` and `predict` may be given: features of two kinds, scikit-learn's X and y, or a stream of inputs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import validate_data
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gradfast.errors import InputError

__all__ = ["as_sets", "is_plain", "is_stream", "validated"]


def is_plain(features: Any) -> bool:
    """Whether scikit-learn's own checks apply: arrays and lists [n, d], data frames, sparse matrices."""
    if isinstance(features, np.ndarray):
        return features.ndim == 2
    if isinstance(features, list):
        return np.ndim(features) == 2
    array_like = hasattr(features, "__array__") and not hasattr(features, "shape")
    return array_like or hasattr(features, "iloc") or hasattr(features, "toarray")


def is_stream(given: Any) -> bool:
    """Whether these are batches of inputs, or a data set, rather than features."""
    if isinstance(given, (DataLoader, Dataset, str, os.PathLike, Iterator)):
        return True
    if isinstance(given, tuple) and len(given) == 2 and all(isinstance(part, Tensor) for part in given):
        return True  # x, y
    pairs = isinstance(given, (list, tuple)) and len(given) > 0 and isinstance(given[0], (list, tuple))
    return pairs and len(given[0]) > 0 and isinstance(given[0][0], Tensor)


def validated(estimator: BaseEstimator, X: Any, y: Any, *, reset: bool) -> tuple[Any, Any]:
    """X float64 [n, d] and y by scikit-learn's checks, which also keep or compare the number of features; NaN passes."""
    options = {"dtype": np.float64, "ensure_all_finite": False, "reset": reset}
    if y is None or not _are_labels(X, y):
        return validate_data(estimator, X, **options), y
    X, y = validate_data(estimator, X, y, **options)
    check_classification_targets(y)
    return X, y


def as_sets(features: Any, other: Any, learns: bool, name: str) -> tuple[Any, Any, NDArray[Any]]:
    """Features of in-distribution samples, of outliers (or None), and the labels of the two.

    Raises:
        InputError: labels of other than two classes, or no outliers for a detector that learns from them.
    """
    if other is None:
        if learns:
            raise InputError(
                f"features_out: got None; {name} learns from known out-of-distribution features"
                " (it requires y to be passed, but the target y is None); without any, make some of known images"
                " with gradfast.detectors.synthetic_outliers, or take OneClassNorms"
            )
        return features, None, np.array([0, 1])
    if not _are_labels(features, other):
        return features, other, np.array([0, 1])
    y = np.asarray(other)
    if len(y) != len(features):
        raise InputError(f"y: got {len(y)} labels for {len(features)} samples")
    classes = np.unique(y)
    if len(classes) > 2:
        # scikit-learn's checks look for this sentence.
        raise InputError(
            "Only binary classification is supported. The type of the target is"
            f" {type_of_target(y)}: y: got {len(classes)} classes, wanted two, of which the second is out"
        )
    if len(classes) < 2:
        if learns:
            raise InputError(
                f"y: got 1 class, {classes.tolist()}; {name} wants samples of two classes, in and out"
            )
        return features, None, np.array([0, 1])
    return features[y == classes[0]], features[y == classes[1]], classes


def _are_labels(features: Any, other: Any) -> bool:
    """A vector; or a single column beside features that have more."""
    data = getattr(other, "values", other) if not isinstance(other, Tensor) else other
    shape = getattr(data, "shape", None) or np.asarray(data).shape
    if len(shape) == 1:
        return True
    width = np.shape(features)[-1] if is_plain(features) else None
    return len(shape) == 2 and shape[1] == 1 and width is not None and width != 1
