"""Exceptions of detectors."""

from __future__ import annotations

from sklearn.exceptions import NotFittedError as SklearnNotFittedError

from gradfast.errors import InputError

__all__ = ["NotFittedError"]


class NotFittedError(InputError, SklearnNotFittedError):  # type: ignore[misc]
    """A detector is asked for something before it was fitted; scikit-learn's error of the same name, too."""
