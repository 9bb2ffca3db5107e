"""OpenOOD's own evaluator with a detector of gradfast, on the images at hand: ``python -m bench.openood OPENOOD ../shared/data``.

OPENOOD is a checkout of OpenOOD 1.5, whose requirements are installed (https://github.com/Jingkang50/OpenOOD; it is on no package index).
Its loaders, its inference and its metrics are used as they are, on folders and lists of images as its benchmarks have them: CIFAR-10's
test images as the known set, Tiny ImageNet as near, MNIST and Omniglot as far. Three things are put in its way: lists of these sets in
place of those that it would download; empty modules for imgaug and libmr, which do not install beside NumPy 2 and serve a training and a
method that are not run; and, without a GPU, a `Tensor.cuda` that does nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from gradfast.data import open_images, read_pixels
from gradfast.detectors import OneClassNorms, Purview
from gradfast.models import load_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KNOWN, FITTED, TESTED = "cifar10", 500, 1000
SETS = {
    "cifar10": "cifar10-test",
    "tin": "tiny-imagenet-32-val",
    "mnist": "mnist-10k",
    "omniglot": "omniglot-small1",
}
_UNUSED = ("imgaug", "imgaug.augmenters", "libmr")


def write_images(data: Path, root: Path) -> None:
    """Images as PNG, and the lists that name them with their labels: the first ones to fit on, the next ones to test on."""
    lists = root / "benchmark_imglist" / KNOWN
    lists.mkdir(parents=True)
    for name, file in SETS.items():
        folder = root / "images_classic" / name
        folder.mkdir(parents=True)
        pixels = read_pixels(open_images(str(data / f"{file}.parquet")), limit=FITTED + TESTED)
        lines = []
        for number, (image, label) in enumerate(zip(pixels.bytes, pixels.labels.tolist(), strict=True)):
            Image.fromarray(image.movedim(0, -1).numpy()).save(folder / f"{number}.png")
            lines.append(f"{name}/{number}.png {label if name == KNOWN else -1}\n")
        (lists / f"val_{name}.txt").write_text("".join(lines[:FITTED]))
        (lists / f"test_{name}.txt").write_text("".join(lines[FITTED:]))


def declare(info: dict[str, Any]) -> None:
    """OpenOOD's benchmark of CIFAR-10, of the sets that are there."""

    def part(split: str, name: str) -> dict[str, str]:
        return {
            "data_dir": "images_classic/",
            "imglist_path": f"benchmark_imglist/{KNOWN}/{split}_{name}.txt",
        }

    info["id"] = {"train": part("val", KNOWN), "val": part("val", KNOWN), "test": part("test", KNOWN)}
    info["csid"] = {"datasets": []}
    info["ood"] = {
        "val": part("val", "tin"),
        "near": {"datasets": ["tin"], "tin": part("test", "tin")},
        "far": {
            "datasets": ["mnist", "omniglot"],
            **{name: part("test", name) for name in ("mnist", "omniglot")},
        },
    }


def main() -> None:
    """Prints OpenOOD's table for each postprocessor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("openood", type=Path)
    parser.add_argument("data", type=Path)
    asked = parser.parse_args()
    sys.path.insert(0, str(asked.openood))
    for name in _UNUSED:
        sys.modules[name] = types.ModuleType(name)
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign, assignment]

    from openood.evaluation_api import Evaluator, datasets
    from openood.postprocessors import BasePostprocessor
    from torchvision import transforms

    from gradfast.integrations.openood import DetectorPostprocessor

    declare(datasets.DATA_INFO[KNOWN])
    datasets.benchmarks_dict[KNOWN] = []  # nothing to download
    preprocess = transforms.Compose(
        [transforms.Resize(32), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )
    net = load_model("cifar_resnet20", asked.data / "cifar10-resnet20.safetensors").eval()
    softmax = BasePostprocessor(None)
    softmax.APS_mode = False
    ways = {
        "OpenOOD's maximum softmax": softmax,
        "Purview, all-ones": DetectorPostprocessor(Purview(), contrast="all-ones", limit=FITTED),
        "Purview, one-hot": DetectorPostprocessor(Purview(), contrast="one-hot", limit=FITTED),
        "OneClassNorms, one-hot, no outliers": DetectorPostprocessor(
            OneClassNorms(), outliers=False, contrast="one-hot", limit=FITTED
        ),
    }
    with tempfile.TemporaryDirectory() as root:
        write_images(asked.data, Path(root))
        for name, way in ways.items():
            print(f"\n{name}")
            evaluator = Evaluator(
                net, KNOWN, data_root=root, preprocessor=preprocess, postprocessor=way, num_workers=0
            )
            evaluator.eval_ood(progress=False)


if __name__ == "__main__":
    main()
