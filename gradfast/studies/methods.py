"""The methods of the tables: which columns each reads, and how these become a score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradfast.detectors import Purview, SourceClassifier, SourceScore, SummedNorms
from gradfast.errors import InputError
from gradfast.features import Features
from gradfast.selection import nearest
from gradfast.studies.columns import Columns
from gradfast.studies.scorers import BestColumn, Matrix, MixedHead, PerClass, Scorer

__all__ = ["METHODS", "MethodEntry", "find_method"]


Make = Callable[[int, NDArray[np.bool_]], Scorer]


@dataclass(frozen=True)
class MethodEntry:
    """One row of a table.

    Attributes:
        name: what options call it.
        title: what tables call it.
        reads: what it reads: "one-hot", "all-ones" (norms), or the name of a source, with a step after a colon if not its own.
        make: an unfitted scorer, from a seed and which of its columns are norms.
        learns: whether it is given outliers.
        layers: "first" or "last" parameter of the norms alone; None: all.
        paper: the name in `paper.csv`.
        about: one line for the report.
        per_class: whether the class that the model predicts is added as the last column.
    """

    name: str
    title: str
    reads: tuple[str, ...]
    make: Make
    learns: bool
    layers: str | None = None
    paper: str = ""
    about: str = ""
    per_class: bool = False

    def matrix(self, columns: Mapping[str, Columns]) -> Matrix:
        """Features [n, d] of what it reads; rows with NaN stay."""
        parts = [self._flat(columns[name]) for name in self.reads]
        if self.per_class:
            predictions = columns[self.reads[0]].predictions
            assert predictions is not None
            parts.append(predictions[:, None].astype(np.float64))
        return np.concatenate(parts, axis=1)

    def norms(self, columns: Mapping[str, Columns]) -> NDArray[np.bool_]:
        """bool [d]: which of its columns are norms."""
        return np.concatenate([
            np.full(self._flat(columns[name][:1]).shape[1], isinstance(columns[name], Features)) for name in self.reads
        ])  # fmt: skip

    def needs_fit(self) -> bool:
        """Whether it reads a source that takes statistics of training images."""
        from gradfast.detectors.sources import SOURCES

        kinds = [name.partition(":")[0] for name in self.reads]
        return any(SOURCES[kind].needs_fit for kind in kinds if kind in SOURCES)

    def _flat(self, columns: Columns) -> Matrix:
        if isinstance(columns, Features):
            if self.layers == "first":
                columns = columns.select(layers=[columns.layers[0]])
            elif self.layers == "last":
                columns = columns.select(layers=_last(columns.layers))
        values = np.asarray(columns.values, dtype=np.float64)
        return values.reshape(len(values), -1)


def _last(layers: tuple[str, ...]) -> list[str]:
    """The last module's parameters: weight and bias."""
    module = layers[-1].rpartition(".")[0]
    return [layer for layer in layers if layer.rpartition(".")[0] == module]


def find_method(name: str) -> MethodEntry:
    """The method of that name, with hyphens or underscores; raises `InputError` with the nearest names."""
    name = name.replace("_", "-")
    if name not in METHODS:
        raise InputError(f"methods: there is no method {name!r}; {nearest(name, list(METHODS))}")
    return METHODS[name]


def _purview(head: str = "logistic", *, log: bool = True) -> Make:
    # Studies rank samples: they need no threshold, so no folds.
    return lambda seed, norms: Purview(head, log=log, folds=None, random_state=seed)


def _weighed(source: str, head: str = "logistic", *, log: bool = False) -> Make:
    return lambda seed, norms: SourceClassifier(source, head, log=log, folds=None, random_state=seed)


def _mixed(seed: int, norms: NDArray[np.bool_]) -> Scorer:
    return MixedHead(norms, seed=seed)


def _one_class(method: str) -> Make:
    return lambda seed, norms: PerClass(method, seed=seed)


def _sum(seed: int, norms: NDArray[np.bool_]) -> Scorer:
    return SummedNorms()


def _source(name: str) -> Make:
    return lambda seed, norms: SourceScore(name)


def _best(seed: int, norms: NDArray[np.bool_]) -> Scorer:
    return BestColumn()


def _steps(source: str, *steps: str) -> tuple[str, ...]:
    return tuple(f"{source}:{step}" for step in steps)


_H = "H: log scale, standardise, logistic regression"
_ONES, _HOT, _PEN = ("all-ones",), ("one-hot",), ("penultimate",)
_ALL = (
    MethodEntry("purview-all-ones", "Purview, all-ones", _ONES, _purview(), True, paper="purview",
                about=f"norms against the all-ones label, one per parameter tensor; {_H}"),
    MethodEntry("purview-one-hot", "Purview, one-hot", _HOT, _purview(), True, paper="purview",
                about=f"norms against every class, one per class and parameter tensor; {_H}"),
    MethodEntry("purview-both", "Purview, both contrasts", ("all-ones", "one-hot"), _purview(), True, about=f"both; {_H}"),
    MethodEntry("purview-mlp", "Purview, all-ones, MLP", _ONES, _purview("mlp"), True, paper="purview",
                about="H: the paper's multilayer perceptron"),
    MethodEntry("purview-boosting", "Purview, all-ones, boosting", _ONES, _purview("boosting"), True, about="H: gradient boosting"),
    MethodEntry("one-hot-first", "one-hot, first layer", _HOT, _purview(), True, "first"),
    MethodEntry("one-hot-last", "one-hot, last layer", _HOT, _purview(), True, "last"),
    MethodEntry("all-ones-first", "all-ones, first layer", _ONES, _purview(), True, "first"),
    MethodEntry("all-ones-last", "all-ones, last layer", _ONES, _purview(), True, "last"),
    MethodEntry("raw-one-hot", "one-hot, norms not log-scaled", _HOT, _purview(log=False), True),
    MethodEntry("raw-all-ones", "all-ones, norms not log-scaled", _ONES, _purview(log=False), True),
    MethodEntry("sum-one-hot", "one-hot, summed norms", _HOT, _sum, False, about="the whole gradient's norm; no H"),
    MethodEntry("sum-all-ones", "all-ones, summed norms", _ONES, _sum, False, about="the whole gradient's norm; no H"),
    MethodEntry("penultimate", "penultimate + H", _PEN, _weighed("penultimate"), True,
                about="no gradients: the input of the last layer, standardised, the same logistic regression"),
    MethodEntry("penultimate-log", "penultimate, log + H", _PEN, _weighed("penultimate", log=True), True, about="no gradients, log scale as for norms"),
    MethodEntry("penultimate-mlp", "penultimate + MLP", _PEN, _weighed("penultimate", "mlp"), True, about="no gradients, a perceptron"),
    MethodEntry("penultimate-and-norms", "penultimate and one-hot norms + H", ("penultimate", "one-hot"), _mixed, True,
                about="both kinds of features together"),
    MethodEntry("one-class", "one-class, all-ones", _ONES, _one_class("mahalanobis"), False, per_class=True,
                about="Mahalanobis distance of log-norms to those of the predicted class; sees no outliers"),
    MethodEntry("one-class-one-hot", "one-class, one-hot", _HOT, _one_class("mahalanobis"), False, per_class=True,
                about="the same on the norms against every class"),
    MethodEntry("one-class-forest", "one-class, all-ones, forest", _ONES, _one_class("forest"), False, per_class=True,
                about="an isolation forest of log-norms; sees no outliers"),
    MethodEntry("max-softmax", "maximum softmax", ("max_softmax",), _source("max_softmax"), False, paper="max_softmax",
                about="Hendrycks & Gimpel, ICLR 2017"),
    MethodEntry("odin", "ODIN", ("odin",), _source("odin"), False, paper="odin", about="Liang et al., ICLR 2018; settings not tuned"),
    MethodEntry("odin-tuned", "ODIN, step chosen", _steps("odin", "0", "0.0005", "0.001", "0.0014", "0.002", "0.004"), _best, True,
                paper="odin", about="the step with the best AUROC on the samples in and out that may be fitted to; T = 1000"),
    MethodEntry("energy", "energy", ("energy",), _source("energy"), False, about="Liu et al., NeurIPS 2020"),
    MethodEntry("mahalanobis", "Mahalanobis (V)", ("mahalanobis",), _source("mahalanobis"), False, paper="mahalanobis",
                about="Lee et al., NeurIPS 2018: last layer"),
    MethodEntry("mahalanobis-p", "Mahalanobis (P)", ("mahalanobis_p",), _source("mahalanobis_p"), False, paper="mahalanobis_p",
                about="with input preprocessing, its step not tuned"),
    MethodEntry("mahalanobis-p-tuned", "Mahalanobis (P), step chosen",
                _steps("mahalanobis_p", "0", "0.0005", "0.001", "0.0014", "0.002", "0.005", "0.01"), _best, True, paper="mahalanobis_p",
                about="Lee et al.'s steps; the one with the best AUROC on the samples in and out that may be fitted to"),
    MethodEntry("mahalanobis-fe", "Mahalanobis (FE)", ("mahalanobis_fe",), _weighed("mahalanobis_fe"), True, paper="mahalanobis_fe",
                about="all layers, weighed by a logistic regression on outliers"),
    MethodEntry("mahalanobis-p-fe", "Mahalanobis (P+FE)", ("mahalanobis_p_fe",), _weighed("mahalanobis_p_fe"), True, paper="mahalanobis_p_fe",
                about="both"),
    MethodEntry("vim", "ViM", ("vim",), _source("vim"), False, about="Wang et al., CVPR 2022"),
    MethodEntry("knn", "KNN", ("knn",), _source("knn"), False, about="Sun et al., ICML 2022"),
    MethodEntry("gradnorm", "GradNorm", ("gradnorm",), _source("gradnorm"), False, about="Huang et al., NeurIPS 2021"),
    MethodEntry("lid", "LID", ("lid",), _weighed("lid"), True, paper="lid",
                about="Ma et al., ICLR 2018: all layers, weighed by a logistic regression on outliers"),
)  # fmt: skip
METHODS: Mapping[str, MethodEntry] = {method.name: method for method in _ALL}
