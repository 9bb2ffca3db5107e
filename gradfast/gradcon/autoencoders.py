"""The autoencoders of Kwon et al. (ECCV 2020), and what every encoder-decoder is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gradfast.errors import InputError, ModelError, describe
from gradfast.selection import parameter_aliases, select_layers

__all__ = [
    "ConvAutoencoder",
    "ConvVAE",
    "Reconstruction",
    "as_reconstruction",
    "brightness",
    "check_images",
    "decoder_weights",
    "initial_weights",
    "reconstruct",
]

_KERNEL, _STRIDE = 4, 2
_WIDTHS = (32, 32, 64, 64)
Brightness = float | Sequence[float]


class ConvAutoencoder(nn.Module):
    """The paper's CAE: four stride-2 convolutions (kernel 4; 32, 32, 64, 64 channels), mirrored by transposed ones, sigmoid.

    230,721 parameters for one channel, 232,771 for three, whatever the image size.

    Args:
        channels: of the images.
        size: (height, width) of the images, each 5 or more; 28 x 28 has the paper's 3 x 3 x 64 latent.
        init: of the convolutions' weights. ``"torch"``: PyTorch's, as in the published code; activations shrink from layer to layer, and on
            images with much black, such as MNIST, most trainings end in black output (`CollapsedWarning`). ``"he"``: normal, by the number
            of products in a sum (He et al., ICCV 2015), biases zero.
        mean: brightness in (0, 1) of the training images, one number or one a channel, for the output to begin at: with PyTorch's weights too,
            trainings on dark images then do not collapse. None: at 0.5, as in the published code.

    Raises:
        InputError: images that are too small, another ``init``, or a ``mean`` out of range.
    """

    def __init__(
        self,
        channels: int = 1,
        size: tuple[int, int] = (28, 28),
        *,
        init: str = "torch",
        mean: Brightness | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.size, self.init = channels, _checked_size(channels, size), init
        self.encoder = _encoder(channels)
        self.decoder = _decoder(channels, self.size)
        _initialise(self, init)
        self.start = _start_at(self.decoder, mean)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] in [0, 1] to their reconstructions, of the same shape."""
        out: Tensor = self.decoder(self.encoder(x))
        return out


class ConvVAE(nn.Module):
    """The paper's VAE: the same convolutions, with linear maps between them and a Gaussian latent.

    Args:
        channels: of the images.
        size: (height, width) of the images.
        latent: dimensions of the latent; None: as many as the encoder's features (576 at 28 x 28).
        init: of the convolutions' weights, as for `ConvAutoencoder`.
        mean: brightness to begin at, as for `ConvAutoencoder`.
    """

    def __init__(
        self,
        channels: int = 1,
        size: tuple[int, int] = (28, 28),
        latent: int | None = None,
        *,
        init: str = "torch",
        mean: Brightness | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.size, self.init = channels, _checked_size(channels, size), init
        self.encoder = _encoder(channels)
        grid = _sizes(self.size)[-1]
        self._grid = (_WIDTHS[-1], *grid)
        features = _WIDTHS[-1] * grid[0] * grid[1]
        latent = features if latent is None else latent
        self.mean = nn.Linear(features, latent)
        self.log_variance = nn.Linear(features, latent)
        self.expand = nn.Linear(latent, features)
        self.decoder = _decoder(channels, self.size)
        _initialise(self, init)
        self.start = _start_at(self.decoder, mean)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images [B, C, H, W] to reconstructions, means and log variances [B, latent]; the latent is drawn in train mode,
        and is the mean in eval mode.
        """
        features = self.encoder(x).flatten(1)
        mean, log_variance = self.mean(features), self.log_variance(features)
        z = mean
        if self.training:
            z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        return self.decoder(self.expand(z).unflatten(1, self._grid)), mean, log_variance


class Reconstruction(NamedTuple):
    """What an encoder-decoder gave for images x: ``output`` [B, C, H, W], and a VAE's mean and log variance [B, Z]."""

    output: Tensor
    mean: Tensor | None = None
    log_variance: Tensor | None = None

    def detached(self) -> Reconstruction:
        """The same values without their graph."""
        mean, log_variance = (None if t is None else t.detach() for t in self[1:])
        return Reconstruction(self.output.detach(), mean, log_variance)

    def errors(self, x: Tensor) -> Tensor:
        """Mean squared error of each image, [B]."""
        return (self.output - x).square().flatten(1).mean(1)

    def divergences(self) -> Tensor | None:
        """Kullback-Leibler divergence of each latent from the standard normal, nats, [B]; None without a latent."""
        if self.mean is None or self.log_variance is None:
            return None
        terms = self.mean.square() + self.log_variance.exp() - 1 - self.log_variance
        return 0.5 * terms.sum(1)


def reconstruct(model: nn.Module, x: Tensor) -> Reconstruction:
    """Runs any encoder-decoder: one that returns a tensor, or a tuple (output, mean, log variance).

    Raises:
        ModelError: another kind of output, or one of another shape than x.
    """
    return as_reconstruction(model(x), x, model)


def as_reconstruction(out: object, x: Tensor, model: nn.Module) -> Reconstruction:
    """What ``model`` returned for ``x``.

    Raises:
        ModelError: as `reconstruct`.
    """
    parts = out if isinstance(out, tuple) else (out,)
    if len(parts) not in (1, 3) or not all(isinstance(part, Tensor) for part in parts):
        raise ModelError(
            f"model: {type(model).__name__} returned {describe(out)}; wanted a reconstruction, "
            "or a tuple (reconstruction, mean, log variance)"
        )
    if parts[0].shape != x.shape:
        raise ModelError(
            f"model: {type(model).__name__} returned {describe(parts[0])} for x of shape {list(x.shape)}; "
            "wanted a reconstruction of the shape of its input"
        )
    return Reconstruction(*parts)


def decoder_weights(model: nn.Module, decoder: str = "decoder") -> dict[str, nn.Parameter]:
    """The weight tensors (no biases, no norm layers' scales) of the parameters that ``decoder`` selects, by name.

    One that is tied to another, such as the encoder's, goes by its name in `named_parameters()`.

    Args:
        model: an encoder-decoder.
        decoder: name, prefix or glob pattern of the decoder's parameters.

    Raises:
        InputError: nothing selected, or no weight tensor among it.
    """
    parameters = dict(model.named_parameters())
    names = select_layers(tuple(parameters), decoder, parameter_aliases(model))
    kept = {name: parameters[name] for name in names if parameters[name].dim() > 1}
    if not kept:
        raise InputError(
            f"decoder: {decoder!r} selects {', '.join(names)} of {type(model).__name__}, none of them a weight of two or "
            "more dimensions; wanted the decoder's weights"
        )
    return kept


def check_images(model: nn.Module, x: Tensor) -> Tensor:
    """x itself, if a batch of images that a decoder that ends in a sigmoid can reconstruct.

    Raises:
        InputError: not a floating tensor [B, ...], no image in it, images of another shape than a `ConvAutoencoder` or `ConvVAE` was
            made for, values that are not finite, or, where the decoder ends in a sigmoid, outside [0, 1].
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2:
        raise InputError(f"x: got {describe(x)}; wanted a floating tensor [B, C, H, W]")
    if x.shape[0] == 0:
        raise InputError(f"x: got {describe(x)}, no image; wanted at least one")
    if isinstance(model, (ConvAutoencoder, ConvVAE)) and x.shape[1:] != (model.channels, *model.size):
        wanted = ", ".join(map(str, ("B", model.channels, *model.size)))
        raise InputError(
            f"x: got {describe(x)}; wanted [{wanted}], for which this {type(model).__name__} was made"
        )
    low, high = (float(v) for v in torch.aminmax(x.detach()))
    if not (low >= -torch.inf and high < torch.inf and low > -torch.inf):
        raise InputError(f"x: got {describe(x)} with values that are NaN or infinite; wanted finite ones")
    if _ends_in_sigmoid(model) and (low < 0 or high > 1):
        raise InputError(
            f"x: got values from {low:.3g} to {high:.3g}; wanted [0, 1], which is all that the model's sigmoid can give back"
        )
    return x


def as_float(images: Tensor) -> Tensor:
    """uint8 0 to 255 as float32 in [0, 1]; floating images as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def kl_weight(x: Tensor) -> float:
    """What the divergence is weighed with beside the mean squared error: 1 / pixels, as both are summed in the ELBO."""
    return 1.0 / x[0].numel()


def _ends_in_sigmoid(model: nn.Module) -> bool:
    last = None
    for module in model.modules():
        if not any(True for _ in module.children()):
            last = module
    return isinstance(last, nn.Sigmoid)


def _checked_size(channels: int, size: tuple[int, int]) -> tuple[int, int]:
    if channels < 1 or len(size) != 2 or min(size) < 5:
        raise InputError(
            f"size: got {channels} channels of {describe(size)}; wanted at least 1 channel and 5 x 5 pixels"
        )
    return (int(size[0]), int(size[1]))


def _sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Heights and widths from the image to the latent: each convolution pads by 2, so n becomes n // 2 + 1."""
    sizes = [size]
    for _ in _WIDTHS:
        sizes.append((sizes[-1][0] // 2 + 1, sizes[-1][1] // 2 + 1))
    return sizes


def _encoder(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip((channels, *_WIDTHS), _WIDTHS, strict=False):
        layers += [nn.Conv2d(before, after, _KERNEL, _STRIDE, padding=2), nn.ReLU()]
    return _channels_last(layers)


def _decoder(channels: int, size: tuple[int, int]) -> nn.Sequential:
    """28 x 28 comes back through 3, 4, 8, 14, as in the paper; other sizes by the padding that each step needs."""
    widths = (*_WIDTHS[::-1], channels)
    steps = _decoder_sizes(size)
    layers: list[nn.Module] = []
    for i in range(len(_WIDTHS)):
        layers += [_upsampler(widths[i], widths[i + 1], steps[i], steps[i + 1]), nn.ReLU()]
    layers[-1] = nn.Sigmoid()
    return _channels_last(layers)


def _initialise(model: nn.Module, init: str) -> None:
    if init not in ("torch", "he"):
        raise InputError(f'init: got {describe(init)}; wanted "torch" or "he"')
    if init == "torch":
        return
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            products = layer.in_channels * _KERNEL * _KERNEL
            if isinstance(
                layer, nn.ConvTranspose2d
            ):  # of a kernel's places, a pixel sees those of its own phase
                products //= _STRIDE * _STRIDE
            nn.init.normal_(layer.weight, std=math.sqrt(2 / products))
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


def initial_weights(model: nn.Module) -> str | None:
    """In words, what one of the models here began with; None for another."""
    if not isinstance(model, (ConvAutoencoder, ConvVAE)):
        return None
    start = "" if model.start is None else f", output at {', '.join(f'{m:.6g}' for m in model.start)}"
    return model.init + start


def _start_at(decoder: nn.Module, mean: Brightness | None) -> tuple[float, ...] | None:
    """Sets the last bias so that an image of zeros before it comes out as bright as ``mean``; by channel, or None."""
    if mean is None:
        return None
    last = decoder[-2]  # type: ignore[index]
    assert isinstance(last, nn.ConvTranspose2d)
    assert last.bias is not None
    by_channel = (
        tuple(float(m) for m in mean) if isinstance(mean, Sequence) else (float(mean),) * last.out_channels
    )
    if len(by_channel) != last.out_channels or not all(0 < m < 1 for m in by_channel):
        raise InputError(
            f"mean: got {describe(mean)}; wanted a brightness in (0, 1), or {last.out_channels} of them, one a channel"
        )
    with torch.no_grad():
        last.bias.copy_(torch.logit(torch.tensor(by_channel, dtype=torch.float64)))
    return by_channel


def brightness(images: Tensor) -> tuple[float, ...]:
    """The mean of each channel of images [n, C, H, W], uint8 or floating in [0, 1], kept within [0.01, 0.99]: what the models take as ``mean``."""
    sums = images.sum((0, 2, 3), dtype=torch.float64)
    whole = 255.0 if images.dtype == torch.uint8 else 1.0
    return tuple((sums / whole / images[:, 0].numel()).clamp(0.01, 0.99).tolist())


def _channels_last(layers: list[nn.Module]) -> nn.Sequential:
    """Weights in the layout that oneDNN and cuDNN are fastest in; activations follow them. Values and state dicts stay."""
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def _decoder_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """From the latent's to the image's height and width: the last step doubles, the one before it crops, as in the paper."""
    half = [-(-n // 2) for n in size]
    quarter = [n // 2 + 1 for n in half]
    eighth = [-(-n // 2) for n in quarter]
    return [_sizes(size)[-1], *((n[0], n[1]) for n in (eighth, quarter, half, size))]


def _upsampler(before: int, after: int, at: tuple[int, int], to: tuple[int, int]) -> nn.ConvTranspose2d:
    # out = 2 (in - 1) - 2 padding + 4 + output_padding
    missing = [2 * (a - 1) + _KERNEL - t for a, t in zip(at, to, strict=True)]
    padding = (-(-missing[0] // 2), -(-missing[1] // 2))
    extra = (missing[0] % 2, missing[1] % 2)
    return nn.ConvTranspose2d(before, after, _KERNEL, _STRIDE, padding=padding, output_padding=extra)
