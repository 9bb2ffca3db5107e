"""`gradfast extract`."""

from __future__ import annotations

import os
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from gradfast.cli.parsing import MODELS


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


class Dtype(str, Enum):
    """Compute dtypes."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def extract(
    model: Annotated[
        str,
        typer.Argument(help=MODELS),
    ],
    data: Annotated[
        str,
        typer.Argument(
            help="Image folder, .parquet (file or folder), .npz, or torchvision:NAME:ROOT.",
        ),
    ],
    out: Annotated[
        str, typer.Option("--out", "-o", help="Directory for the features, a path or URL; resumed if begun.")
    ],
    weights: Annotated[
        Path | None, typer.Option(help="Local .safetensors or state dict of the model.")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(min=1, help="Of a named architecture, if not as in its weights.")
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
    dtype: Annotated[Dtype | None, typer.Option(help="To compute in. Default: the model's own.")] = None,
    memory_budget: Annotated[str | None, typer.Option(help='Such as "2GB".')] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples at a time.")] = 64,
    device: Annotated[
        str | None,
        typer.Option(help="Such as cuda:0; cuda is, under torchrun, each rank's own. Default: the CPU."),
    ] = None,
    size: Annotated[str | None, typer.Option(help="Resize to 32 (square) or 32,48 (height, width).")] = None,
    channels: Annotated[int, typer.Option(min=1, max=3, help="1 for grey, 3 for RGB.")] = 3,
    mean: Annotated[str | None, typer.Option(help="Subtracted from pixels in [0, 1]: 0.5 or r,g,b.")] = None,
    std: Annotated[str | None, typer.Option(help="Divides them then: 0.5 or r,g,b.")] = None,
    jpeg_quality: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Pass images through JPEG, for sets to compare that never were."),
    ] = None,
    split: Annotated[str, typer.Option(help="Of .npz files and torchvision sets.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many images.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode images.")] = 0,
    ray: Annotated[
        bool, typer.Option("--ray", help="Work as actors of a Ray cluster (RAY_ADDRESS) or a local Ray.")
    ] = False,
    actors: Annotated[str, typer.Option(help="With --ray: how many, or least,most such as 1,8.")] = "1",
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Squared gradient norms of every image in DATA, to a directory of Parquet. Started again, it goes on.

    Under torchrun (`torchrun --nproc-per-node 4 -m gradfast extract ...`), the ranks share the work.
    """
    from gradfast.cli.parsing import integers, numbers
    from gradfast.data import Preprocess, open_images
    from gradfast.distributed import extract as extract_by_ray
    from gradfast.distributed import extract_ranks, rank_and_world
    from gradfast.errors import InputError
    from gradfast.extractor import FeatureExtractor
    from gradfast.models import load_model

    if classes is not None and top_k is not None:
        raise InputError("--classes and --top-k: got both, wanted one of them")
    import torch

    rank, world = rank_and_world()
    if device == "cuda" and world > 1:
        device = f"cuda:{os.environ.get('LOCAL_RANK', rank)}"
    side = integers("--size", size)
    preprocess = Preprocess(
        size=side[0] if side is not None and len(side) == 1 else side,  # type: ignore[arg-type]
        channels=channels,
        mean=numbers("--mean", mean),
        std=numbers("--std", std),
        jpeg_quality=jpeg_quality,
    )
    images = open_images(data, preprocess, split=split, limit=limit)
    options: dict[str, Any] = {
        "contrast": contrast.value,
        "loss": None if loss is None else loss.value,
        "classes": integers("--classes", classes) if classes is not None else top_k,
        "layers": layers or None,
        "dtype": None if dtype is None else getattr(torch, dtype.value),
        "memory_budget": memory_budget,
        "batch_size": batch_size,
    }
    make = partial(load_model, model, weights, num_classes=num_classes, device=None if ray else device)
    if ray:
        few, *many = integers("--actors", actors) or (1,)
        gpus = int(device is not None and device.startswith("cuda"))
        features = extract_by_ray(
            images,
            make,
            out,
            actors=(few, many[0] if many else few),
            num_gpus=gpus,
            workers=workers,
            progress=progress,
            **options,
        )
    elif world > 1:
        features = extract_ranks(
            FeatureExtractor(make(), **options), images, out, progress=progress, workers=workers
        )
        if rank:
            return
    else:
        features = FeatureExtractor(make(), **options).extract(
            images, out, progress=progress, workers=workers
        )
    n, rows, columns = features.shape
    print(f"{out}: {n:,} samples x {rows} contrast rows x {columns} layers")
