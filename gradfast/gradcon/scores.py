"""Per-sample scores of a trained autoencoder, a batch at a time; no gradient is materialised.

All are higher for a more anomalous image. The gradient score is the gradient loss of Kwon et al. (ECCV 2020), section 4.3: minus the
mean over the decoder's weights of the cosine between the image's own gradient and the reference.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, jvp

import gradfast.norms
from gradfast.errors import InputError, describe
from gradfast.gradcon.autoencoders import Reconstruction, as_float, check_images, reconstruct
from gradfast.gradcon.constraint import GradConLoss, GradientReference
from gradfast.inputs import check_model, check_reference

__all__ = ["SCORES", "GradConScorer", "Scores", "UndefinedCosineWarning", "fit_weight"]

SCORES = ("reconstruction", "latent", "gradient", "standardised", "combined")
Reference = GradConLoss | GradientReference | Mapping[str, Tensor]


class UndefinedCosineWarning(UserWarning):
    """Some images have a zero gradient, so that it has no direction; their cosine counts as zero."""


@dataclass(frozen=True)
class Scores:
    """Scores of n images, float32 arrays; higher is more anomalous.

    Attributes:
        reconstruction: [n] mean squared error.
        latent: [n] Kullback-Leibler divergence of the latent, nats; None for a model without one.
        gradient: [n] minus the mean cosine, in [-1, 1].
        standardised: [n] the same with each tensor's cosine in standard deviations from its mean over normal images; None for a scorer
            that has not been given any (`GradConScorer.standardised`).
        combined: [n] reconstruction + weight * gradient.
        cosines: [n, L] by decoder tensor; 0 where undefined.
        flagged: [n] whether some cosine is undefined: a zero gradient (a perfect reconstruction) or a zero reference.
        layers: names of the L tensors.
    """

    reconstruction: NDArray[np.float32]
    latent: NDArray[np.float32] | None
    gradient: NDArray[np.float32]
    standardised: NDArray[np.float32] | None
    combined: NDArray[np.float32]
    cosines: NDArray[np.float32]
    flagged: NDArray[np.bool_]
    layers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.gradient)

    def by_name(self) -> dict[str, NDArray[np.float32]]:
        """The scores that there are, by the names in `SCORES`."""
        return {name: values for name in SCORES if (values := getattr(self, name)) is not None}

    @staticmethod
    def concatenate(parts: list[Scores]) -> Scores:
        """The scores of batches of one model, in order."""
        first = parts[0]
        joined = {}
        for field in fields(Scores):
            value = getattr(first, field.name)
            if isinstance(value, np.ndarray):
                value = np.concatenate([getattr(part, field.name) for part in parts])
            joined[field.name] = value
        return Scores(**joined)


class GradConScorer:
    """Scores images by a trained encoder-decoder and the reference that was kept while it was trained.

    Args:
        model: as for `GradConLoss`. It is put into eval mode for each call and back after.
        reference: the `GradConLoss` of the training, its `GradientReference`, or mean gradients by parameter name; scores take
            its tensors.
        weight: of the gradient score beside the reconstruction error in the combined one; the paper's 0.12. See `fit_weight`.
        batch_size: images at a time.

    Raises:
        InputError: a reference whose names or shapes are not the model's.
    """

    def __init__(
        self, model: nn.Module, reference: Reference, *, weight: float = 0.12, batch_size: int = 64
    ) -> None:
        if isinstance(reference, GradConLoss):
            reference = reference.reference
        mean = reference.as_dict() if isinstance(reference, GradientReference) else dict(reference)
        parameters = _parameters(model)
        self.layers = check_reference(parameters, mean)
        if batch_size < 1:
            raise InputError(f"batch_size: got {describe(batch_size)}; wanted at least 1")
        self.model, self.weight, self.batch_size = model, weight, batch_size
        # In the weights' own layout, so that a reference from a file gives the same bits as the one it was written from.
        self.reference = {
            name: torch.empty_like(parameters[name], dtype=mean[name].dtype, device=mean[name].device)
            .copy_(mean[name])
            .detach()
            for name in self.layers
        }
        self._normal: tuple[Tensor, Tensor] | None = None  # mean and deviation of each tensor's cosine, [L]
        self._flat = _Flat(model)
        self._units = gradfast.norms.UnitReference(
            {
                f"model.{n}": r.to(torch.promote_types(r.dtype, parameters[n].dtype))
                for n, r in self.reference.items()
            }
        )

    def __repr__(self) -> str:
        layers = f"{len(self.layers)} layers, weight={self.weight}, batch_size={self.batch_size}"
        return f"GradConScorer({type(self.model).__name__}, {layers})"

    def __call__(self, x: Tensor) -> Scores:
        """Scores of images [B, C, H, W], a floating tensor; in [0, 1] for a decoder that ends in a sigmoid.

        Raises:
            InputError: images that cannot be used.
            ModelError: an output of another shape than x.

        Warns:
            UndefinedCosineWarning: some cosine is undefined; the images are flagged.
        """
        check_images(self.model, x)
        with _eval(self.model):
            scores = Scores.concatenate([self._batch(part) for part in x.split(self.batch_size)])
        if scores.flagged.any():
            count = int(scores.flagged.sum())
            warnings.warn(
                f"{count} of {len(scores)} images have a zero gradient, or the reference is zero: no cosine; it counts as 0",
                UndefinedCosineWarning,
                stacklevel=2,
            )
        return scores

    def refreshed(self, normal: Tensor) -> GradConScorer:
        """A scorer by the mean gradient, at the weights that the model has now, of the reconstruction errors of normal images.

        The reference of a short training is still that of its first steps, from which the weights have moved on; the paper's trainings are
        long. ``normal`` are training images [n, C, H, W], uint8 or as for a call.
        """
        weights = {name: p for name, p in self.model.named_parameters() if name in self.layers}
        device = next(iter(weights.values())).device
        # Weights may be frozen once they are trained, and a caller may be in inference mode.
        with _eval(self.model), torch.inference_mode(False), torch.enable_grad(), _thawed(weights.values()):
            mean = {name: torch.zeros_like(r) for name, r in self.reference.items()}
            for part in normal.split(self.batch_size):
                x = as_float(part).to(device)
                x = x.clone() if x.is_inference() else x
                errors = reconstruct(self.model, check_images(self.model, x)).errors(x)
                found = torch.autograd.grad(
                    errors.sum() / len(normal), [weights[n] for n in self.layers], allow_unused=True
                )
                for name, g in zip(self.layers, found, strict=True):
                    if g is not None:
                        mean[name] += g
        return GradConScorer(self.model, mean, weight=self.weight, batch_size=self.batch_size)

    def standardised(self, normal: Tensor) -> GradConScorer:
        """A scorer whose scores have ``standardised`` too: how far each tensor's cosine is below that of normal images.

            score = mean over l of (mean_l - cos_l) / deviation_l

        The plain mean is ruled by the tensors whose cosines spread most over *normal* images, the decoder's last above all, which are not
        those that tell anomalies. This score is not the paper's. ``normal`` are images [n, C, H, W], uint8 or as for a call, best
        ones that were held out of the training; n at least 2.

        Raises:
            InputError: fewer than two images.
        """
        if len(normal) < 2:
            raise InputError(
                f"normal: got {len(normal)} images; wanted at least 2, to know how far cosines spread"
            )
        device = next(self.model.parameters()).device
        cosines = torch.from_numpy(
            np.concatenate(
                [self(as_float(part).to(device)).cosines for part in normal.split(self.batch_size)]
            )
        ).double()
        scorer = GradConScorer(self.model, self.reference, weight=self.weight, batch_size=self.batch_size)
        # No spread at all is taken for one of float32's last digits, so that scores stay finite.
        scorer._normal = (cosines.mean(0), cosines.std(0).clamp_min(1e-6))
        return scorer

    def contributions(self, x: Tensor) -> Tensor:
        """Where the gradient score comes from: each pixel's share of it, [B, C, H, W]; their sum is the score.

        An image's gradient is a sum over the pixels p of its reconstruction o, of error times derivative, so that with u_l the unit
        reference of a tensor

            cos_l = sum over p of 2 (o_p - x_p) <d o_p / d theta_l, u_l> / |g_l|

        and the inner products of all pixels are one forward-mode derivative along u_l. Nothing is approximated. An undefined cosine has no
        shares: zeros.

        Args:
            x: as for a call; as many images as are to be looked at: one pass for each of the L tensors.

        Raises:
            InputError, ModelError: as for a call.
        """
        check_images(self.model, x)
        shares = torch.zeros_like(x)
        parameters = {name: p.detach() for name, p in self.model.named_parameters()}
        rest = dict(self.model.named_buffers())
        with _eval(self.model), torch.no_grad(), warnings.catch_warnings():
            # torch's first forward-mode derivative warns of a function that torch itself calls.
            warnings.simplefilter("ignore", FutureWarning)
            squares = gradfast.norms.grad_norms(
                self._flat, x, contrast=x.flatten(1).unsqueeze(1), loss="mse", layers=list(self._units)
            ).values[:, 0]
            error = 2 * (self._flat.taken(len(x)).output - x)
            for i, name in enumerate(self.layers):
                length = torch.linalg.vector_norm(self.reference[name], dtype=torch.float64)
                unit = (self.reference[name] / torch.where(length > 0, length, 1)).to(parameters[name])

                def output(weight: Tensor, name: str = name) -> Tensor:
                    held = {**parameters, **rest, name: weight}
                    found = functional_call(self.model, held, (x,))
                    out: Tensor = found[0] if isinstance(found, tuple) else found
                    return out

                along = jvp(output, (parameters[name],), (unit,))[1]
                norms = squares[:, i].sqrt().view(-1, *[1] * (x.dim() - 1))
                shares -= torch.where(norms > 0, error * along / norms, 0) / len(self.layers)
        return shares

    def stream(self, batches: Iterator[Tensor]) -> Iterator[Scores]:
        """The scores of each batch as it comes."""
        return map(self, batches)

    def _batch(self, x: Tensor) -> Scores:
        angles = gradfast.norms.grad_cosines(
            self._flat, x, self._units, contrast=x.flatten(1).unsqueeze(1), loss="mse"
        )
        # The logits are the output as the images lie in memory, where the model's own may lie by pixel.
        out = self._flat.taken(len(x))._replace(output=angles.logits.view_as(x))
        cosines = angles.values[:, 0]
        flagged = cosines.isnan()
        cosines = cosines.nan_to_num(0.0).float()
        error, gradient = out.errors(x).float(), -cosines.mean(1)
        latent, standardised = out.divergences(), None
        if self._normal is not None:
            mean, deviation = self._normal
            standardised = _numpy(((mean - cosines.cpu().double()) / deviation).mean(1).float())
        return Scores(
            reconstruction=_numpy(error),
            latent=None if latent is None else _numpy(latent.float()),
            gradient=_numpy(gradient),
            standardised=standardised,
            combined=_numpy(error + self.weight * gradient),
            cosines=_numpy(cosines),
            flagged=flagged.any(1).cpu().numpy(),
            layers=self.layers,
        )


def fit_weight(
    normal: Scores, anomalous: Scores, weights: tuple[float, ...] = (0.0, 0.03, 0.06, 0.12, 0.25, 0.5, 1, 4)
) -> float:
    """The weight of the combined score with the highest AUROC on validation images of both kinds; the smallest of equals."""
    from gradfast.detectors.metrics import auroc

    def area(weight: float) -> float:
        mixed = [s.reconstruction + np.float32(weight) * s.gradient for s in (normal, anomalous)]
        return auroc(*mixed)

    return max(sorted(weights), key=area)


class _Flat(nn.Module):
    """The model as one whose logits are the pixels [B, K]; what else it gave is kept until it is taken."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._kept: list[Reconstruction] = []

    def forward(self, x: Tensor) -> Tensor:
        out = reconstruct(self.model, x)
        self._kept.append(out.detached())
        return out.output.flatten(1)

    def taken(self, batch: int) -> Reconstruction:
        """Of the last ``batch`` images; a chunk that did not fit was run again, smaller, and its first run does not count."""
        parts: list[Reconstruction] = []
        while batch > 0:
            part = self._kept.pop()
            parts.insert(0, part)
            batch -= len(part.output)
        self._kept.clear()
        mean, log_variance = (_joined([part[i] for part in parts]) for i in (1, 2))
        return Reconstruction(torch.cat([part.output for part in parts]), mean, log_variance)


@contextmanager
def _eval(model: nn.Module) -> Iterator[None]:
    """In eval mode inside; every module's own mode is put back after."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def _thawed(weights: Iterable[Tensor]) -> Iterator[None]:
    """They want gradients inside; those that did not before do not after."""
    frozen = [p for p in weights if not p.requires_grad]
    for p in frozen:
        p.requires_grad_(True)
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad_(False)


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return check_model(model) if not model.training else dict(model.named_parameters())


def _numpy(t: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = t.detach().cpu().numpy()
    return array
