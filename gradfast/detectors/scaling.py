"""Features brought to one scale."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted, validate_data

from gradfast.errors import InputError

__all__ = ["NormScaler"]


class NormScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Log scale and standardise non-negative features [n, d]; a scikit-learn transformer.

    Squared gradient norms span many orders of magnitude, so column j becomes

        log(x_j + eps * mean_j)        mean_j: the mean of column j over the training samples (1 if that is 0)

    which is unchanged by a rescaling of any column, and finite where a gradient vanishes. The columns are
    then brought to zero mean and unit variance. With `log=False` they are only standardised, and may be negative.

    Fitted attributes: `offset_` [d] (eps * mean_j; None without log), `scaler_`, `n_features_in_`.
    """

    def __init__(self, *, eps: float = 1e-6, log: bool = True) -> None:
        self.eps = eps
        self.log = log

    def fit(self, X: Any, y: Any = None) -> NormScaler:
        """Fits to features X [n, d]."""
        if not self.eps > 0:
            raise InputError(f"eps: got {self.eps}, wanted a number above 0")
        X = validate_data(self, X, dtype=np.float64)
        self._check_sign(X)
        mean = X.mean(axis=0)
        self.offset_ = self.eps * np.where(mean > 0, mean, 1.0) if self.log else None
        self.scaler_ = StandardScaler().fit(self._logarithm(X))
        return self

    def transform(self, X: Any) -> NDArray[np.float64]:
        """Scaled features [n, d] float64."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        self._check_sign(X)
        return np.asarray(self.scaler_.transform(self._logarithm(X)))

    def _logarithm(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        return X if self.offset_ is None else np.log(X + self.offset_)

    def _check_sign(self, X: NDArray[np.float64]) -> None:
        if self.log and X.size and X.min() < 0:
            # scikit-learn's checks look for these opening words.
            raise InputError(
                f"Negative values in data passed to {type(self).__name__}: X must hold squared norms, which are >= 0"
            )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = self.log
        return tags
