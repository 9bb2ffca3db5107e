"""Every method by name: what it reads, whether it learns from outliers, how to make it, and where it is from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gradfast.detectors.base import Detector
from gradfast.detectors.baselines import SourceScore, SummedNorms
from gradfast.detectors.one_class import OneClassNorms
from gradfast.detectors.purview import Purview
from gradfast.detectors.weighted import SourceClassifier
from gradfast.errors import InputError
from gradfast.selection import nearest

__all__ = ["METHODS", "NORMS", "MethodInfo", "method"]

NORMS = "norms"

_PURVIEW = (
    "J. Lee, C. Lehman, M. Prabhushankar, G. AlRegib, Probing the Purview of Neural Networks via Gradient"
    " Analysis, IEEE Access 11, 2023"
)
_LEE = (
    "K. Lee, K. Lee, H. Lee, J. Shin, A Simple Unified Framework for Detecting Out-of-Distribution Samples and"
    " Adversarial Attacks, NeurIPS 2018"
)


@dataclass(frozen=True)
class MethodInfo:
    """A method.

    Attributes:
        name: the key in `METHODS`.
        title: as tables show it.
        reads: "norms" (features of `FeatureExtractor`) or the name of a source.
        learns: whether it is fitted to known outliers.
        make: gives an unfitted detector.
        citation: where it is from.
    """

    name: str
    title: str
    reads: str
    learns: bool
    make: Callable[[], Detector]
    citation: str


def _norms(name: str, title: str, make: Callable[[], Detector], citation: str) -> MethodInfo:
    return MethodInfo(name, title, NORMS, make().learns, make, citation)


def _score(name: str, title: str, citation: str) -> MethodInfo:
    return MethodInfo(name, title, name, False, partial(SourceScore, name), citation)


def _weighted(name: str, title: str, citation: str) -> MethodInfo:
    return MethodInfo(name, title, name, True, partial(SourceClassifier, name), citation)


_ALL = (
    _norms("purview", "Purview", Purview, _PURVIEW),
    _norms("purview_mlp", "Purview, MLP", partial(Purview, "mlp"), _PURVIEW),
    _norms("purview_boosting", "Purview, gradient boosting", partial(Purview, "boosting"), _PURVIEW),
    _norms("summed_norms", "Summed norms", SummedNorms, _PURVIEW),
    _norms("norm_mahalanobis", "Mahalanobis of log norms", OneClassNorms, "one-class H on the norms of the Purview paper;"
           " shrinkage: O. Ledoit, M. Wolf, A well-conditioned estimator for large-dimensional covariance matrices, 2004"),
    _norms("norm_mixture", "Gaussian mixture of log norms", partial(OneClassNorms, "mixture"),
           "one-class H on the norms of the Purview paper"),
    _norms("norm_forest", "Isolation forest of log norms", partial(OneClassNorms, "forest"), "one-class H on the norms of"
           " the Purview paper; F. T. Liu, K. M. Ting, Z.-H. Zhou, Isolation Forest, ICDM 2008"),
    _score("max_softmax", "Maximum softmax", "D. Hendrycks, K. Gimpel, A Baseline for Detecting Misclassified and"
           " Out-of-Distribution Examples in Neural Networks, ICLR 2017"),
    _score("odin", "ODIN", "S. Liang, Y. Li, R. Srikant, Enhancing the Reliability of Out-of-distribution Image"
           " Detection in Neural Networks, ICLR 2018"),
    _score("energy", "Energy", "W. Liu, X. Wang, J. Owens, Y. Li, Energy-based Out-of-distribution Detection, NeurIPS 2020"),
    _score("mahalanobis", "Mahalanobis (V)", _LEE),
    _score("mahalanobis_p", "Mahalanobis (P)", _LEE),
    _weighted("mahalanobis_fe", "Mahalanobis (FE)", _LEE),
    _weighted("mahalanobis_p_fe", "Mahalanobis (P+FE)", _LEE),
    _score("vim", "ViM", "H. Wang, Z. Li, L. Feng, W. Zhang, ViM: Out-Of-Distribution with Virtual-logit Matching,"
           " CVPR 2022"),
    _score("knn", "KNN", "Y. Sun, Y. Ming, X. Zhu, Y. Li, Out-of-Distribution Detection with Deep Nearest Neighbors,"
           " ICML 2022"),
    _score("gradnorm", "GradNorm", "R. Huang, A. Geng, Y. Li, On the Importance of Gradients for Detecting"
           " Distributional Shifts in the Wild, NeurIPS 2021"),
    _weighted("lid", "LID", "X. Ma et al., Characterizing Adversarial Subspaces Using Local Intrinsic Dimensionality,"
              " ICLR 2018"),
    _weighted("penultimate", "Penultimate features", "gradient-free counterpart of Purview: the same H on the input of"
              " the last layer"),
)  # fmt: skip

METHODS: dict[str, MethodInfo] = {info.name: info for info in _ALL}


def method(name: str) -> MethodInfo:
    """The method of that name; raises `InputError` if there is none."""
    if name not in METHODS:
        raise InputError(f"method: there is no {name!r}; {nearest(name, list(METHODS))}")
    return METHODS[name]
