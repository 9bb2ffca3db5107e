"""Detectors on disk: `detector.json` (readable metadata), `classifier.skops`, and `source.safetensors` where a source was
fitted. Loading runs no code from the files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import sklearn
import skops.io
from torch import Tensor

from gradfast.detectors.inputs import FeatureSchema
from gradfast.errors import GradfastError, InputError
from gradfast.version import __version__

__all__ = ["DetectorFileError", "load_state", "require_free", "save_state"]

FORMAT = 2
_METADATA, _CLASSIFIER, _TENSORS = "detector.json", "classifier.skops", "source.safetensors"
# What a detector's directory holds, with what `gradfast detect fit` writes about it: replaced together.
_REPLACED = {_METADATA, _CLASSIFIER, _TENSORS, "report.html", "evaluation.csv", "evaluation.parquet"}

# Beyond the public types of scikit-learn, NumPy and SciPy, which skops trusts by itself: ours, and the plain
# data holders inside scikit-learn's multilayer perceptron, trees and gradient boosting.
_TRUSTED = (
    "gradfast.detectors.classifier.NormClassifier",
    "gradfast.detectors.scaling.NormScaler",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
)


class DetectorFileError(GradfastError):
    """A saved detector is missing, damaged, of another kind, or holds types that are not trusted."""


def require_free(directory: Path, overwrite: bool) -> None:
    """Raises `InputError` if something is there that saving a detector would replace and must not."""
    if not directory.exists():
        return
    if not (directory / _METADATA).is_file():
        raise InputError(f"directory: {directory} exists and holds no detector, so it is not overwritten")
    if not overwrite:
        raise InputError(
            f"directory: {directory} already holds a saved detector; choose another, or overwrite it (--overwrite)"
        )


def save_state(
    directory: Path,
    kind: str,
    state: Mapping[str, Any],
    schema: FeatureSchema,
    classifier: Any,
    tensors: Mapping[str, Tensor],
    *,
    overwrite: bool = False,
) -> Path:
    """Writes all files to a temporary directory beside `directory`, then renames: never half a detector.

    Other files that lie in a directory that is overwritten stay there.

    Raises `InputError` as `require_free`.
    """
    require_free(directory, overwrite)
    payload = skops.io.dumps(classifier)
    held = safetensors.torch.save({key: tensor.contiguous() for key, tensor in tensors.items()})
    metadata = {
        "format": FORMAT,
        "kind": kind,
        **state,
        "schema": asdict(schema),
        "classifier_sha256": hashlib.sha256(payload).hexdigest(),
        "tensors_sha256": hashlib.sha256(held).hexdigest() if tensors else None,
        "versions": {
            "gradfast": __version__,
            "scikit-learn": sklearn.__version__,
            "skops": skops.__version__,
        },
    }
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        (scratch / _CLASSIFIER).write_bytes(payload)
        if tensors:
            (scratch / _TENSORS).write_bytes(held)
        (scratch / _METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
        scratch.chmod(0o777 & ~_umask())
        _swap(scratch, directory)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return directory


def _swap(scratch: Path, directory: Path) -> None:
    """Puts `scratch` in the place of `directory`, with what is not a detector's in there."""
    if not directory.exists():
        scratch.replace(directory)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    directory.replace(old)
    scratch.replace(directory)
    for path in old.iterdir():
        if path.name not in _REPLACED:
            path.replace(directory / path.name)
    shutil.rmtree(old)


def load_state(
    directory: Path, kinds: Sequence[str], trusted: Sequence[str]
) -> tuple[dict[str, Any], FeatureSchema, Any, dict[str, Tensor]]:
    """Metadata, schema, classifier and tensors written by `save_state` for one of `kinds`; raises `DetectorFileError`."""
    try:
        metadata = json.loads((directory / _METADATA).read_text(encoding="utf-8"))
        payload = (directory / _CLASSIFIER).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DetectorFileError(
            f"directory: {directory} holds no saved detector ({error.strerror})"
        ) from error
    except ValueError as error:
        raise DetectorFileError(f"{directory / _METADATA}: not valid JSON ({error})") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        found = metadata.get("format") if isinstance(metadata, dict) else None
        raise DetectorFileError(
            f"{directory / _METADATA}: got format {found}, this version reads format {FORMAT}"
        )
    if metadata["kind"] not in kinds:
        raise DetectorFileError(
            f"directory: {directory} holds a {metadata['kind']} detector, wanted {' or '.join(kinds)}"
        )
    if hashlib.sha256(payload).hexdigest() != metadata["classifier_sha256"]:
        raise DetectorFileError(
            f"{directory / _CLASSIFIER}: damaged (its checksum is not that of {_METADATA})"
        )
    saved_with = metadata["versions"]["scikit-learn"]
    if saved_with != sklearn.__version__:
        warnings.warn(
            f"{directory}: saved with scikit-learn {saved_with}, loaded with {sklearn.__version__}; fit it again if it fails",
            stacklevel=3,
        )
    allowed = {*_TRUSTED, *trusted}
    unknown = sorted(set(skops.io.get_untrusted_types(data=payload)) - allowed)
    if unknown:
        raise DetectorFileError(
            f"{directory / _CLASSIFIER}: holds types that are not trusted: {', '.join(unknown)};"
            " if you know them to be safe, name them in trusted"
        )
    schema = dict(metadata["schema"])
    schema["layers"] = tuple(schema["layers"])
    tensors = _load_tensors(directory / _TENSORS, metadata.get("tensors_sha256"))
    return metadata, FeatureSchema(**schema), skops.io.loads(payload, trusted=sorted(allowed)), tensors


def _load_tensors(path: Path, digest: str | None) -> dict[str, Tensor]:
    if digest is None:
        return {}
    try:
        held = path.read_bytes()
    except FileNotFoundError as error:
        raise DetectorFileError(f"{path}: missing, although {_METADATA} names it") from error
    if hashlib.sha256(held).hexdigest() != digest:
        raise DetectorFileError(f"{path}: damaged (its checksum is not that of {_METADATA})")
    return safetensors.torch.load(held)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
