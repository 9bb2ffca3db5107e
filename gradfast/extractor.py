"""Gradient features of a whole data set, kept on disk so that a killed run can go on."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradfast.contrast import ClassesLike, Contrast, ContrastLike, LossLike, name_of
from gradfast.data.batches import Batch, Batches, as_batches
from gradfast.data.fingerprint import of_arrays
from gradfast.data.samples import leaves, map_leaves
from gradfast.errors import GradfastError, InputError, ModelError, describe
from gradfast.features import Features
from gradfast.inputs import check_model, slice_batch
from gradfast.models.fingerprint import fingerprint
from gradfast.norms import grad_norms
from gradfast.options import parse_dtype, parse_memory_budget
from gradfast.places import as_path
from gradfast.progress import SampleProgress
from gradfast.results import GradNorms
from gradfast.selection import parameter_aliases, select_layers
from gradfast.store import Block, Layout, MismatchError, Run
from gradfast.store.layout import ROWS_PER_FILE
from gradfast.store.table import MemoryPart
from gradfast.version import __version__

__all__ = ["FeatureExtractor", "FlaggedWarning"]

# What torch says of operands whose shapes do not go together.
_SHAPES = re.compile(r"\b\dD\b|shape|size|dimension", re.IGNORECASE)


class FlaggedWarning(UserWarning):
    """Some samples have NaN or infinite inputs or norms; they are kept and flagged, and the message lists them."""


class FeatureExtractor:
    """Extracts squared gradient norms of every sample of a data set, for every contrast row and layer.

    ::

        features = FeatureExtractor(model).extract("images/", out="features/")
        features.values                                             # float32 [n, C, L]

    Args:
        model: maps inputs to logits [B, K]; in eval mode.
        contrast: as in `grad_norms`, but targets are the same for all samples, [C, K].
        loss: as in `grad_norms`. A callable is known by its code and what it holds, not by functions that it calls.
        classes: as in `grad_norms`.
        layers: as in `grad_norms`.
        dtype: as in `grad_norms`.
        memory_budget: as in `grad_norms`. It may differ between two runs on one directory.
        batch_size: samples that the model sees at a time; a DataLoader keeps its own.
        device: where to move the model before it runs; None leaves it where it is. Inputs follow the model, and its
            floating dtype.

    Raises:
        InputError: an argument that cannot be used.
        ModelError: a model without floating parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        contrast: ContrastLike = "one-hot",
        loss: LossLike = None,
        classes: ClassesLike = None,
        layers: str | Sequence[str] | None = None,
        dtype: torch.dtype | None = None,
        memory_budget: int | str | None = None,
        batch_size: int = 64,
        device: torch.device | str | None = None,
    ) -> None:
        parameters = check_model(model)
        select_layers(list(parameters), layers, parameter_aliases(model))
        self._held = Contrast.parse(contrast, loss, classes)
        if self._held.per_sample:
            raise InputError(
                f"contrast: got {describe(contrast)}; wanted targets [C, K], the same for all samples"
            )
        parse_dtype(dtype)
        parse_memory_budget(memory_budget)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"batch_size: got {describe(batch_size)}; wanted an int of at least 1")
        self.model = model
        self.contrast = contrast
        self.loss = loss
        self.classes = classes
        self.layers = layers
        self.dtype = dtype
        self.memory_budget = memory_budget
        self.batch_size = batch_size
        self.device = device

    def __repr__(self) -> str:
        contrast = self.contrast if isinstance(self.contrast, str) else list(self.contrast.shape)
        given = {
            "contrast": contrast,
            "loss": name_of(self._held.loss),
            "classes": self._held.classes,
            "layers": self.layers,
        }
        shown = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
        return f"FeatureExtractor({type(self.model).__name__}, {shown})"

    def extract(
        self,
        source: Any,
        out: str | PathLike[str] | None = None,
        *,
        progress: bool = True,
        workers: int = 0,
        rows_per_file: int = ROWS_PER_FILE,
    ) -> Features:
        """Computes the features of all samples of a source, in its order.

        A sample with NaN or infinite inputs is kept: its row is NaN and flagged, and the others in its batch are as if it
        had been zeros. With ``out``, a run that was killed goes on where it was when it is started again, and the files are
        byte for byte those of an unbroken run (on the same kind of machine with as many threads). A finished
        directory is returned as it is.

        Args:
            source: a DataLoader, a list of batches x, (x, y) or dict, or another object that gives its batches each time it is
                iterated over (no generator, which ends); a map-style or iterable data set; tensors or NumPy arrays, x, (x, y)
                or a dict of them; or, for `gradfast.data.open_images`, a path to a folder of images, Parquet or ``.npz``.
                Labels are integers, -1 where unknown.
            out: directory for the features, a path or URL, made if need be; None keeps them in memory. On an object
                store nothing keeps a second writer out.
            progress: show a bar with samples per second and time left.
            workers: processes that read and decode, for data sets and paths.
            rows_per_file: samples in one file at most, which is also what a killed run may lose; rounded down to whole
                batches. Files stay under 64 MiB in any case, unless one batch is larger.

        Raises:
            InputError: a source or a sample that cannot be used; an unreadable image is named.
            ModelError: the model is in train mode, or has no per-sample gradients.
            InUseError: another run writes to ``out``.
            MismatchError: ``out`` was begun with another model, other data or other settings; the message says which.
            StoreError: ``out`` cannot be written. What was written before is kept.

        Warns:
            FlaggedWarning: lists the flagged samples.
        """
        batches = self.batches(source, workers)
        check_rows_per_file(rows_per_file)
        if out is None:
            features = self._in_memory(batches, progress)
        else:
            folder = as_path(out)
            self._on_disk(batches, folder, progress, rows_per_file)
            features = Features.load(folder)
        report_flagged(features)
        return features

    def norms(self, x: Any) -> GradNorms:
        """The norms of one batch, moved to where the model is; NaN for samples whose inputs are not finite.

        Args:
            x: what a loader gives: a batch x, (x, y), or a dict; labels are not read.

        Raises:
            InputError: inputs that cannot be used.
            ModelError: the model is in train mode, or has no per-sample gradients.
        """
        self._check_mode()
        norms, finite = self._norms(Batch.of(x))
        lost = ~finite.to(norms.values.device)
        values = norms.values.masked_fill(lost[:, None, None], torch.nan)
        return replace(norms, values=values, logits=norms.logits.masked_fill(lost[:, None], torch.nan))

    def batches(self, source: Any, workers: int = 0) -> Batches:
        """The source in batches, and the model where it will run; for those who extract shard by shard, as `gradfast.distributed` does.

        Raises:
            InputError: a source that cannot be used.
            ModelError: the model is in train mode.
        """
        self._check_mode()
        if self.device is not None:
            self.model.to(self.device)
        return as_batches(source, self.batch_size, workers)

    def settings(self) -> dict[str, Any]:
        """What the features depend on besides the data, JSON-able."""
        parameter = self._parameter()
        return {
            "model": type(self.model).__name__,
            "model_fingerprint": fingerprint(self.model),
            "contrast": _named(self.contrast),
            **self._held.settings,
            **({} if isinstance(self._held.loss, str) else {"loss_fingerprint": _digest_of(self._held.loss)}),
            "layers": [self.layers] if isinstance(self.layers, str) else self.layers and list(self.layers),
            "dtype": str(self.dtype or parameter.dtype).removeprefix("torch."),
            "device": parameter.device.type,
            "gradfast": __version__,
            "torch": torch.__version__,
        }

    def _in_memory(self, batches: Batches, progress: bool) -> Features:
        blocks = []
        layout = None
        settings = {**self.settings(), "source": batches.settings()}
        with SampleProgress(batches.samples, progress) as bar:
            for block, norms in self._compute(batches, 0, 0):
                layout = layout or _layout(norms, settings)
                blocks.append(block)
                bar.advance(len(block))
        if layout is None:
            raise InputError("source: it gave no samples; wanted at least one")
        return Features([MemoryPart(Block.concat(blocks), layout.layers)], layout)

    def _on_disk(self, batches: Batches, folder: Path, progress: bool, rows_per_file: int) -> None:
        check_order(batches)
        settings = {**self.settings(), "source": batches.settings()}
        with Run(folder, settings, rows_per_file) as run:
            if run.finished:
                return
            with SampleProgress(batches.samples, progress) as bar:
                bar.resumed(sum(record.rows for record in run.done.values()))
                for first, stop in run.gaps():
                    self.fill(run, batches, first, stop, bar)
            if not run.done:
                raise InputError("source: it gave no samples; wanted at least one")
            run.finish()

    def fill(self, run: Run, batches: Batches, first: int, stop: int | None, bar: SampleProgress) -> None:
        """Writes shards ``first`` up to ``stop``, or as many as there are samples for.

        Raises:
            MismatchError: the source ends before ``stop``, or has another layout than the run.
        """
        shard = first
        held: list[Block] = []
        start, end = first * run.shard_batches, None if stop is None else stop * run.shard_batches
        for block, norms in self._compute(batches, start, run.rows_before(first), end):
            layout = _layout(norms, run.settings)
            run.begin(layout, len(block))
            held.append(block)
            bar.advance(len(block))
            if len(held) == run.shard_batches:
                run.commit(shard, Block.concat(held))
                shard, held = shard + 1, []
                if shard == stop:
                    return
        if stop is not None:
            raise MismatchError(
                f"{run.folder}: the source ends in shard {shard}, an earlier run went on to {max(run.done, default=stop)}"
            )
        if held:
            run.commit(shard, Block.concat(held))

    def first_layout(self, batches: Batches, settings: dict[str, Any]) -> Layout:
        """The layout of the features, from the first sample alone."""
        first = next(batches.iterate(0, 1), None)
        if first is None:
            raise InputError("source: it gave no samples; wanted at least one")
        return self.layout_of(Batch(slice_batch(first.inputs, slice(0, 1)), first.labels[:1]), settings)

    def layout_of(self, batch: Batch, settings: dict[str, Any]) -> Layout:
        """The layout of the features of a batch."""
        return _layout(self._norms(batch)[0], settings)

    def block(self, batches: Batches, start: int, index: int, stop: int) -> Block:
        """The features of batches ``start`` up to ``stop``, whose first sample is number ``index``."""
        return Block.concat([block for block, _ in self._compute(batches, start, index, stop)])

    def block_of(self, batch: Batch, index: int) -> Block:
        """The features of a batch, whose first sample is number ``index``."""
        norms, finite = self._norms(batch)
        return _block(batch, index, norms, finite)

    def _compute(
        self, batches: Batches, start: int, index: int, stop: int | None = None
    ) -> Iterator[tuple[Block, GradNorms]]:
        """From batch ``start``, whose first sample is number ``index``, up to ``stop``."""
        for batch in batches.iterate(start, stop):
            try:
                norms, finite = self._norms(batch)
            except (RuntimeError, ValueError) as error:
                if isinstance(error, GradfastError) or not _SHAPES.search(str(error)):
                    raise
                raise InputError(_cannot_take(batch, error)) from error
            yield _block(batch, index, norms, finite), norms
            index += len(batch)

    def _norms(self, batch: Batch) -> tuple[GradNorms, Tensor]:
        """The norms, and which samples' inputs are finite, bool [B]; those of the others are of zeros in their place."""
        parameter = self._parameter()
        x = map_leaves(partial(_place, parameter=parameter), batch.inputs)
        finite = torch.ones(len(batch), dtype=torch.bool, device=parameter.device)
        floating = [
            leaf
            for _, leaf in leaves(x)
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim()
        ]
        for leaf in floating:
            finite &= leaf.isfinite().reshape(len(batch), -1).all(1)
        if not bool(finite.all()):
            x = map_leaves(partial(_zero, rows=~finite), x)
        norms = grad_norms(
            self.model,
            x,
            contrast=self.contrast,
            loss=self.loss,
            classes=self.classes,
            layers=self.layers,
            dtype=self.dtype,
            memory_budget=self.memory_budget,
        )
        return norms, finite.cpu()

    def _parameter(self) -> nn.Parameter:
        return next(p for p in self.model.parameters() if p.is_floating_point() or p.is_complex())

    def _check_mode(self) -> None:
        for name, module in self.model.named_modules():
            if module.training:
                where = f"{name} ({type(module).__name__}) is" if name else "it is"
                raise ModelError(
                    f"model: {where} in train mode, in which dropout and batch statistics make features depend on "
                    "chance and on the batch; wanted model.eval()"
                )


def _place(leaf: Tensor, parameter: Tensor) -> Tensor:
    return leaf.to(parameter.device, parameter.dtype if leaf.is_floating_point() else None)


def _cannot_take(batch: Batch, error: Exception) -> str:
    """What to say of a batch whose shape the model refused."""
    came = ", ".join(f"{name} is {describe(leaf)}" for name, leaf in leaves(batch.inputs))
    return (
        f"source: the model cannot take a batch whose {came} ({str(error).splitlines()[0]}); "
        "wanted batches [B, ...] (of a list of single samples, torch.stack(samples))"
    )


def _zero(leaf: Tensor, rows: Tensor) -> Tensor:
    if not leaf.is_floating_point() or not leaf.dim():
        return leaf
    return leaf.masked_fill(rows.view(-1, *[1] * (leaf.dim() - 1)), 0)


def _block(batch: Batch, index: int, norms: GradNorms, finite: Tensor) -> Block:
    values, logits = norms.values.float().cpu(), norms.logits.float().cpu()
    predictions = logits.argmax(1).masked_fill(~finite, -1)
    values = values.masked_fill(~finite[:, None, None], torch.nan)
    logits = logits.masked_fill(~finite[:, None], torch.nan)
    usable = values.isfinite().all(2).all(1) & logits.isfinite().all(1)
    of_samples = norms.classes if norms.classes is not None and norms.classes.dim() == 2 else None
    return Block(
        index=np.arange(index, index + len(batch)),
        labels=batch.labels.numpy(),
        predictions=predictions.numpy(),
        flagged=~usable.numpy(),
        values=values.contiguous().numpy(),
        logits=logits.numpy(),
        classes=None if of_samples is None else of_samples.cpu().numpy(),
    )


def _layout(norms: GradNorms, settings: dict[str, Any]) -> Layout:
    _, rows, _ = norms.values.shape
    classes: tuple[int, ...] | str | None = None
    if norms.classes is not None:
        classes = "per sample" if norms.classes.dim() == 2 else tuple(norms.classes.tolist())
    return Layout(norms.layers, rows, norms.logits.shape[1], classes, settings)


def _named(contrast: ContrastLike) -> Any:
    """A contrast as JSON takes it: a name as it is, targets by their digest."""
    if isinstance(contrast, str):
        return contrast
    return {"targets": list(contrast.shape), "fingerprint": of_arrays(contrast)}


def _digest_of(loss: object) -> str:
    """Tells a callable loss from another of its name (a lambda, a partial), the same in every process."""
    return hashlib.sha256(_told(loss, 6).encode()).hexdigest()


def _told(x: Any, depth: int) -> str:
    """What a value does, in text; of an object that is neither plain data nor callable, and beyond ``depth``, only its type."""
    kind = f"{type(x).__module__}.{type(x).__qualname__}"
    if isinstance(x, (bool, int, float, complex, str, bytes, type(None))):
        return f"{kind} {x!r}"
    if isinstance(x, (Tensor, np.ndarray)):
        return of_arrays(x)
    held: Any = ()
    if isinstance(x, nn.Module):  # some settings, such as a label smoothing, are not in what it prints
        plain = [(k, v) for k, v in vars(x).items() if isinstance(v, (bool, int, float, str))]
        held = {"": fingerprint(x), **dict(plain)}
    elif isinstance(x, (list, tuple, set, frozenset, Mapping)):
        held = x
    elif isinstance(x, CodeType):
        held = (x.co_code, x.co_names, x.co_consts)
    elif isinstance(x, FunctionType):
        cells = [cell.cell_contents for cell in x.__closure__ or ()]
        held = (x.__code__, x.__defaults__, x.__kwdefaults__, cells)
    elif isinstance(x, MethodType):
        of = x.__self__
        held = (x.__func__, of if isinstance(of, nn.Module) else getattr(of, "__dict__", None))
    elif isinstance(x, partial):
        held = (x.func, x.args, x.keywords)
    elif callable(x) and not isinstance(x, type):
        held = getattr(x, "__dict__", ())
    parts = (
        [_told(value, depth - 1) for value in (held.items() if isinstance(held, Mapping) else held)]
        if depth
        else []
    )
    # Sets and mappings come in an order that does not belong to what they say.
    return f"{kind} [{', '.join(parts if isinstance(held, (list, tuple)) else sorted(parts))}]"


def check_rows_per_file(rows: object) -> None:
    """Raises `InputError` if it is no int of at least 1."""
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise InputError(f"rows_per_file: got {describe(rows)}; wanted an int of at least 1")


def check_order(batches: Batches) -> None:
    """Raises `InputError` for a source whose samples come in another order each time."""
    if batches.shuffles:
        raise InputError(
            f"source: its order differs from run to run ({batches.shuffles}); wanted a fixed order, "
            "for a run to go on and for the index to tell which sample it was"
        )


def report_flagged(features: Features) -> None:
    """Warns of flagged samples, by number."""
    flagged = features.index[features.flagged]
    if len(flagged):
        shown = ", ".join(map(str, flagged[:10])) + (", ..." if len(flagged) > 10 else "")
        warnings.warn(
            f"{len(flagged)} of {len(features)} samples have NaN or infinite inputs, logits or norms and are flagged: {shown}",
            FlaggedWarning,
            stacklevel=3,
        )
