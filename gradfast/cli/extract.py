"""`gradfast extract`."""

from __future__ import annotations

import os
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradfast.cli.parsing import IMAGES, MODELS, Channels

if TYPE_CHECKING:
    from torch import nn

    from gradfast.data import ImageSet, Preprocess
    from gradfast.features import Features


class Contrast(str, Enum):
    """Targets that need no file."""

    one_hot = "one-hot"
    all_ones = "all-ones"


class Loss(str, Enum):
    """Losses by name."""

    cross_entropy = "cross_entropy"
    bce = "bce"
    bce_softmax = "bce_softmax"
    mse = "mse"


class OnError(str, Enum):
    """What an unreadable image does."""

    stop = "stop"
    flag = "flag"


class Dtype(str, Enum):
    """Compute dtypes."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


# What a model's forward pass raises of an input that it was not made for.
_REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)


def extract(
    model: Annotated[
        str,
        typer.Argument(help=MODELS),
    ],
    data: Annotated[
        str,
        typer.Argument(help=IMAGES),
    ],
    out: Annotated[
        str, typer.Option("--out", "-o", help="Directory for the features, a path or URL; resumed if begun.")
    ],
    weights: Annotated[
        Path | None, typer.Option(help="Local .safetensors or state dict of the model.")
    ] = None,
    num_classes: Annotated[
        int | None,
        typer.Option(min=1, help="Number of classes of a named architecture. Default: as in its weights."),
    ] = None,
    contrast: Annotated[Contrast, typer.Option(help="What each sample is held against.")] = Contrast.one_hot,
    loss: Annotated[
        Loss | None, typer.Option(help="Default: cross_entropy for one-hot, bce for all-ones.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="One-hot rows: class numbers, such as 0,3,7. Default: all.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="One-hot rows: the k most likely classes of each sample.")
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(help="Parameter names, prefixes or globs; may be repeated. Default: all."),
    ] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Data type to compute in. Default: the model's own.")
    ] = None,
    memory_budget: Annotated[
        str | None,
        typer.Option(help="Upper bound on the memory for activations and cotangents, such as 2GB."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples at a time.")] = 64,
    device: Annotated[
        str | None,
        typer.Option(
            help="Where to compute, such as cuda:0; under torchrun, cuda is each rank's own. Default: the CPU."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Resize to 32 (square) or 32,48 (height, width). Default: as WEIGHTS say, else no change."
        ),
    ] = None,
    channels: Annotated[
        Channels | None, typer.Option(help="1 for grey, 3 for RGB. Default: as WEIGHTS say, else 3.")
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            help="Subtracted from pixels in [0, 1]: 0.5 or r,g,b. Default: as WEIGHTS say, else nothing."
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(help="Divides them then: 0.5 or r,g,b. Default: as WEIGHTS say, else 1."),
    ] = None,
    jpeg_quality: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Pass images through JPEG, for sets to compare that never were."),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            help="Which split to read: of torchvision's and MNIST's sets, of .npz, of a folder of Parquet with train-* and test-*."
        ),
    ] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many images.")] = None,
    on_error: Annotated[
        OnError,
        typer.Option(
            help="An image that cannot be read stops the run, or is flagged: a row of NaN, named at the end."
        ),
    ] = OnError.stop,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode images.")] = 0,
    rows_per_file: Annotated[
        int,
        typer.Option(
            min=1, help="Samples in one file at most, which is also what an interrupted run may lose."
        ),
    ] = 2048,
    ray: Annotated[
        bool, typer.Option("--ray", help="Work as actors of a Ray cluster (RAY_ADDRESS) or a local Ray.")
    ] = False,
    actors: Annotated[
        str | None, typer.Option(help="With --ray: how many, or least,most such as 1,8. Default: 1.")
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Squared gradient norms of every image in DATA, to a directory of Parquet. Started again, it goes on.

    Under torchrun (`torchrun --nproc-per-node 4 -m gradfast extract ...`), the ranks share the work.
    """
    from gradfast.cli.parsing import integers
    from gradfast.data import open_images
    from gradfast.distributed import extract as extract_by_ray
    from gradfast.distributed import extract_ranks, rank_and_world
    from gradfast.errors import GradfastError, InputError
    from gradfast.extractor import FeatureExtractor
    from gradfast.models import load_model
    from gradfast.places import as_path

    if classes is not None and top_k is not None:
        raise InputError("--classes and --top-k: got both, wanted one of them")
    if actors is not None and not ray:
        raise InputError(f"--actors: got {actors} without --ray; wanted both")
    import torch

    rank, world = rank_and_world()
    if device == "cuda" and world > 1:
        device = f"cuda:{os.environ.get('LOCAL_RANK', rank)}"
    folder = as_path(out)
    finished = _is_finished(folder)
    preprocess = _preprocess(model, weights, size, channels, mean, std, jpeg_quality, tell=not rank)
    unreadable = "raise" if on_error is OnError.stop else "flag"
    images = open_images(data, preprocess, split=split, limit=limit, on_error=unreadable)
    options: dict[str, Any] = {
        "contrast": contrast.value,
        "loss": None if loss is None else loss.value,
        "classes": integers("--classes", classes) if classes is not None else top_k,
        "layers": layers or None,
        "dtype": None if dtype is None else getattr(torch, dtype.value),
        "memory_budget": memory_budget,
        "batch_size": batch_size,
    }
    run: dict[str, Any] = {"workers": workers, "progress": progress, "rows_per_file": rows_per_file}
    make = partial(load_model, model, weights, num_classes=num_classes, device=None if ray else device)
    network: nn.Module | None = None
    try:
        if ray:
            few, *many = integers("--actors", actors or "1") or (1,)
            features = extract_by_ray(
                images,
                make,
                out,
                actors=(few, many[0] if many else few),
                num_gpus=int(device is not None and device.startswith("cuda")),
                **run,
                **options,
            )
        else:
            network = make()
            extractor = FeatureExtractor(network, **options)
            if world > 1:
                features = extract_ranks(extractor, images, out, **run)
            else:
                features = extractor.extract(images, out, **run)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_goes_on(folder, len(images))) from None
    except _REFUSALS as error:
        if network is not None and (error.__cause__ is not None or not isinstance(error, GradfastError)):
            _check_takes(network, images)
        raise
    if rank:
        return
    n, rows, columns = features.shape
    already = "already complete: " if finished else ""
    print(f"{out}: {already}{n:,} samples x {rows} contrast rows x {columns} layers")
    _name_flagged(features, images)
    agreement = _agreement(features, images)
    if agreement is not None:
        print(f"predictions agree with {agreement:.1%} of the labels")


def _is_finished(folder: Path) -> bool:
    """Whether all features are there.

    Raises:
        InputError: a directory with files in it, none of them gradfast's, such as the images themselves.
    """
    from gradfast.errors import InputError
    from gradfast.store.run import MANIFEST, PROGRESS

    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if names and not {MANIFEST, PROGRESS} & names:
        raise InputError(
            f"--out: {folder} holds {min(names)} and no features; wanted a new or empty directory, or one of features"
        )
    return MANIFEST in names


def _preprocess(
    model: str,
    weights: Path | None,
    size: str | None,
    channels: Channels | None,
    mean: str | None,
    std: str | None,
    jpeg_quality: int | None,
    *,
    tell: bool,
) -> Preprocess:
    """What the options say, else the weights' file; with ``tell``, in a line, what came from the file or nowhere."""
    from gradfast.cli.parsing import integers, note, numbers
    from gradfast.data import Preprocess
    from gradfast.models import load_preprocess
    from gradfast.models.loading import is_named

    side = integers("--size", size)
    given: dict[str, Any] = {
        "size": side[0] if side is not None and len(side) == 1 else side,
        "channels": None if channels is None else int(channels.value),
        "mean": numbers("--mean", mean),
        "std": numbers("--std", std),
    }
    given = {name: value for name, value in given.items() if value is not None}
    trained = None if weights is None or not weights.is_file() else load_preprocess(weights)
    if trained is not None:
        taken = {name: getattr(trained, name) for name in ("size", "channels", "mean", "std")}
        taken = {name: value for name, value in taken.items() if name not in given and value is not None}
        if taken and tell:
            shown = "; ".join(f"{name} {_shown(value)}" for name, value in taken.items())
            note(f"images are prepared as {weights} says: {shown}")
        given = {**taken, **given}
    elif tell and is_named(model) and not {"mean", "std"} & set(given):
        note("images are not normalised: there is no --mean or --std, and no file of weights that says any")
    return Preprocess(**given, jpeg_quality=jpeg_quality)


def _shown(value: object) -> str:
    return ",".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)


def _check_takes(model: nn.Module, images: ImageSet) -> None:
    """Raises `InputError` if the model refuses an image as such; its error then was no defect."""
    import torch

    from gradfast.errors import InputError
    from gradfast.inputs import call

    x = images[0][0][None]
    parameter = next((p for p in model.parameters() if p.is_floating_point()), x)
    try:
        with torch.no_grad():
            call(model, x.to(parameter.device, parameter.dtype))
    except _REFUSALS as error:
        if isinstance(error, InputError):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"model: refused an image of shape {list(x.shape[1:])}: {reason}; see --size and --channels"
        ) from error


def _goes_on(folder: Path, samples: int) -> str:
    """What an interrupted run says."""
    from gradfast.errors import GradfastError
    from gradfast.store.run import PROGRESS, read_record

    try:
        written = sum(read_record(path).rows for path in (folder / PROGRESS).glob("part-*.json"))
    except (GradfastError, OSError):  # interrupted in the middle of one, or by its last
        return "; the same command goes on"
    return f"; the same command goes on ({written:,} of {samples:,} samples are written)"


def _name_flagged(features: Features, images: ImageSet) -> None:
    from gradfast.cli.parsing import note

    index = features.index[features.flagged].tolist()
    if index:
        more = f"; and {len(index) - 20:,} more" if len(index) > 20 else ""
        note(f"flagged, each a row of NaN: {'; '.join(map(images.where, index[:20]))}{more}")


def _agreement(features: Features, images: ImageSet) -> float | None:
    """The share of labelled samples that are predicted as labelled; None without labels, or of other classes."""
    known = features.labels >= 0
    outputs = features.layout.logits
    named = None if images.classes is None else len(images.classes)
    if not known.any() or named not in (None, outputs) or int(features.labels.max()) >= outputs:
        return None
    return float((features.predictions == features.labels)[known].mean())
