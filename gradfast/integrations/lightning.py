"""A Lightning callback that logs gradient norms of the validation data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradfast.contrast import ContrastLike
from gradfast.data.batches import Batch
from gradfast.errors import InputError
from gradfast.norms import grad_norms

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise InputError(
        f"gradfast.integrations.lightning needs lightning, which cannot be imported ({error}): pip install lightning"
    ) from error

__all__ = ["GradNormsCallback"]


class GradNormsCallback(Callback):
    """Logs the mean squared gradient norm of the first validation batches, in all and per group of layers.

    Logged through `LightningModule.log`, so every logger of the trainer has ``grad_norms/all`` and
    ``grad_norms/GROUP``; the mean over ranks, where there are several.

    Args:
        contrast: as in `gradfast.grad_norms`; one row, ``"all-ones"``, costs one backward pass.
        groups: prefixes or globs of parameter names, as in `gradfast.grad_norms`; each becomes a curve.
        batches: how many validation batches of each epoch are measured.
        module: name of the submodule that maps inputs to logits; None: the LightningModule itself.
        options: of `gradfast.grad_norms`.
    """

    def __init__(
        self,
        contrast: ContrastLike = "all-ones",
        groups: Sequence[str] = (),
        *,
        batches: int = 1,
        module: str | None = None,
        **options: Any,
    ) -> None:
        if isinstance(batches, bool) or not isinstance(batches, int) or batches < 1:
            raise InputError(f"batches: got {batches!r}; wanted an int of at least 1")
        self.contrast, self.groups, self.batches, self.module = contrast, tuple(groups), batches, module
        self.options = options

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measures a batch; called by the trainer, which has the model in eval mode."""
        if batch_idx >= self.batches or dataloader_idx or trainer.sanity_checking:
            return
        model: nn.Module = pl_module if self.module is None else pl_module.get_submodule(self.module)
        x = Batch.of(batch).inputs
        with torch.inference_mode(False):
            norms = grad_norms(model, _owned(x), contrast=self.contrast, **self.options)
        values = {"all": norms.values, **{group: norms.select(group).values for group in self.groups}}
        for name, of in values.items():
            pl_module.log(
                f"grad_norms/{name}",
                of.sum(-1).mean(),
                on_epoch=True,
                on_step=False,
                sync_dist=True,
                batch_size=len(of),
            )


def _owned(x: Any) -> Any:
    """Inputs that autograd can record: Lightning's are made in inference mode."""
    from gradfast.data.samples import map_leaves

    return map_leaves(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, x)
