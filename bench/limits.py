"""What keeps detection of corruptions and of two attacks below its mark: H, the number of images, or the images themselves?

    python -m bench.limits ../shared/data [--part level5 level1 semantic cw sure] [--only haze decolor]

ResNet-20 on CIFAR-10. Test images 0 to 799 are fitted to, 800 to 1199 are tested; clean and corrupted images have been
through the same JPEG passes, as in the corruption study. `pixels` is a small CNN trained from nothing to tell the two apart
by 2,000 training images of either kind: more than any H is shown, and it reads the pixels, not the network.
Changes are root mean squares over an image, of the range [0, 1].
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from gradfast import FeatureExtractor, Features
from gradfast.attacks import attack, on_pixels
from gradfast.corruptions import CORRUPTIONS, corrupt
from gradfast.data import Pixels, jpeg, open_images, read_pixels
from gradfast.detectors import Purview, evaluate
from gradfast.models import load_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FIT, FEW, TESTED, PIXELS = 800, 250, 400, 2000
QUALITY = 75  # of the files
SLIGHT = 5 / 255

Array = NDArray[np.float64]

# What stays below the mark: 0.99 at level 5, 0.85 at level 1.
SHOWN = {
    5: ("exposure", "decolor", "dirty_lens"),
    1: ("noise", "lens_blur", "gaussian_blur", "dirty_lens", "exposure", "haze", "decolor"),
}
PARTS = ("level5", "level1", "semantic", "cw", "sure")
WEIGHTS = Path(__file__).parent.parent / "docs" / "results" / "weights"
NETWORKS = ("cifar_resnet20", "cifar_resnet56", "densenet_bc_40_12")
CONFIDENCES = ((0.0, 0.6), (0.6, 0.9), (0.9, 0.99), (0.99, 1.01))


def main() -> None:
    """Prints two tables of the corruptions at each level, one of each attack, and how sure the networks are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with CIFAR-10's files and the network's weights")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--only", nargs="+", default=CORRUPTIONS, help="these corruptions alone")
    given = parser.parse_args()
    data: Path = given.data
    network = load_model("cifar_resnet20", weights=data / "cifar10-resnet20.safetensors")
    model = on_pixels(network, MEAN, STD)
    train = read_pixels(open_images(data / "cifar10-train.parquet"), limit=PIXELS)
    test = read_pixels(open_images(data / "cifar10-test.parquet"), limit=FIT + TESTED)
    for part in given.part:
        if part == "semantic":
            _semantic(model, train, test)
        elif part == "cw":
            _carlini_wagner(model, test)
        elif part == "sure":
            _sure(data, test)
        else:
            level = int(part[-1])
            _corruptions(model, train, test, level, [name for name in SHOWN[level] if name in given.only])


def _corruptions(model: nn.Module, train: Pixels, test: Pixels, level: int, names: list[str]) -> None:
    worse = {name: corrupt(test.images, name, level, index=test.index) for name in names}
    stored = {name: jpeg(images, QUALITY) for name, images in worse.items()}
    clean, clean_train = jpeg(test.images, QUALITY), jpeg(train.images, QUALITY)
    _print_header(
        "corruption, level", "accuracy", "predictions changed", "change before JPEG", "after JPEG",
        "images changed by less than 5/255",
    )  # fmt: skip
    before = _predictions(model, clean)
    print(f"| clean | {_share(before == test.labels):.3f} | | | | |")
    for name in worse:
        found, change = _predictions(model, stored[name]), _change(stored[name], clean)
        print(f"| {name}, {level} | {_share(found == test.labels):.3f} | {_share(found != before):.3f} | "
              f"{float(_change(worse[name], test.images).mean()):.3f} | {float(change.mean()):.3f} | "
              f"{_share(change < SLIGHT):.2f} |", flush=True)  # fmt: skip
    print()
    known = {contrast: _norms(model, clean, contrast) for contrast in ("all-ones", "one-hot")}
    _print_header(
        "corruption, level", "all-ones, H on 250", "on 800", "boosting on 800", "MLP on 800", "one-hot on 250", "on 800",
        "pixels",
    )  # fmt: skip
    for name, images in stored.items():
        ones, hot = (_norms(model, images, contrast) for contrast in known)
        row = [
            _purview(known["all-ones"], ones, "logistic", FEW),
            _purview(known["all-ones"], ones, "logistic", FIT),
            _purview(known["all-ones"], ones, "boosting", FIT),
            _purview(known["all-ones"], ones, "mlp", FIT),
            _purview(known["one-hot"], hot, "logistic", FEW),
            _purview(known["one-hot"], hot, "logistic", FIT),
            _pixels(
                clean_train,
                jpeg(corrupt(train.images, name, level, seed=1, index=train.index), QUALITY),
                clean[FIT:],
                images[FIT:],
            ),
        ]
        print(f"| {name}, {level} | " + " | ".join(f"{area:.3f}" for area in row) + " |", flush=True)
    print()


def _semantic(model: nn.Module, train: Pixels, test: Pixels) -> None:
    found = attack(model, test.images, test.labels, "semantic", index=test.index)
    fooled = found.success.nonzero()[:, 0]
    half = len(fooled) // 2
    clean, shifted = test.images[fooled], found.images[fooled]
    known, unknown = _norms(model, clean, "one-hot"), _norms(model, shifted, "one-hot")
    detector = Purview(folds=None).fit(known[:half], unknown[:half])
    inside, outside = detector.score(known[half:]), detector.score(unknown[half:])
    sure, sure_clean = _confidences(model, shifted[half:]), _confidences(model, clean[half:])
    print(f"\nSemantic, one-hot: {half} + {half} to fit to, {len(inside)} + {len(outside)} tested\n")
    print("| shifted images | share | one-hot AUROC | maximum softmax AUROC |\n|---|---|---|---|")
    for title, rows in (
        ("all", sure >= 0),
        ("wrong with a confidence below 0.6", sure < 0.6),
        ("0.6 to 0.9", (sure >= 0.6) & (sure < 0.9)),
        ("0.9 and above", sure >= 0.9),
    ):
        print(f"| {title} | {rows.mean():.2f} | {evaluate(inside, outside[rows]).auroc:.3f} |"
              f" {evaluate(-sure_clean, -sure[rows]).auroc:.3f} |")  # fmt: skip
    wrong = test.images[found.predictions_before != test.labels]
    mistakes = detector.score(_norms(model, wrong, "one-hot"))
    print(
        f"\nClean images that the network gets wrong, held against the same clean ones: {evaluate(inside, mistakes).auroc:.3f}"
    )
    some = attack(model, train.images[: PIXELS // 2], train.labels[: PIXELS // 2], "semantic", seed=1)
    area = _pixels(
        train.images[: PIXELS // 2][some.success], some.adversarial(), clean[half:], shifted[half:]
    )
    print(f"Pixels, trained on {int(some.success.sum())} of either kind: {area:.3f}")


def _carlini_wagner(model: nn.Module, test: Pixels) -> None:
    """By what the network made of the clean image: an attacked one always ends at the boundary."""
    found = attack(model, test.images, test.labels, "cw", index=test.index)
    fooled = found.success.nonzero()[:, 0]
    half = len(fooled) // 2
    clean, attacked = test.images[fooled], found.images[fooled]
    sure, sure_attacked = _confidences(model, clean[half:]), _confidences(model, attacked[half:])
    low, middle, high = np.quantile(sure_attacked, (0.05, 0.5, 0.95))
    print(f"\nC&W, {half} + {half} to fit to, {len(fooled) - half} + {len(fooled) - half} tested; change "
          f"{float(_change(attacked, clean).mean()):.4f}\n")  # fmt: skip
    print(f"Confidence of the attacked: {low:.2f}, {middle:.2f}, {high:.2f} (5, 50, 95%)\n")
    scores = {}
    for contrast in ("all-ones", "one-hot"):
        known, unknown = _norms(model, clean, contrast), _norms(model, attacked, contrast)
        detector = Purview(folds=None).fit(known[:half], unknown[:half])
        scores[contrast] = detector.score(known[half:]), detector.score(unknown[half:])
    scores["maximum softmax"] = -sure, -sure_attacked
    print(
        "| confidence in the clean image | share | " + " | ".join(f"{name} AUROC" for name in scores) + " |"
    )
    print("|---" * (2 + len(scores)) + "|")
    for title, rows in (
        ("all", sure >= 0),
        *((f"{a} to {min(b, 1.0)}", (sure >= a) & (sure < b)) for a, b in CONFIDENCES),
    ):
        areas = [f"{evaluate(inside[rows], outside).auroc:.3f}" for inside, outside in scores.values()]
        print(f"| {title} | {rows.mean():.2f} | " + " | ".join(areas) + " |")
    print()


def _sure(data: Path, test: Pixels) -> None:
    """The shares of the confidences in images that each network gets right."""
    _print_header("network", "right", *(f"{a} to {min(b, 1.0)}" for a, b in CONFIDENCES))
    for name in NETWORKS:
        file = f"cifar10-{name.removeprefix('cifar_')}.safetensors"
        place = next(folder for folder in (data, WEIGHTS) if (folder / file).exists())
        model = on_pixels(load_model(name, weights=place / file), MEAN, STD)
        right = _predictions(model, test.images) == test.labels
        sure = _confidences(model, test.images[right])
        shares = [f"{np.mean((sure >= a) & (sure < b)):.2f}" for a, b in CONFIDENCES]
        print(f"| {name} | {_share(right):.2f} | {' | '.join(shares)} |")
    print()


def _confidences(model: nn.Module, images: Tensor) -> NDArray[np.float32]:
    with torch.no_grad():
        return np.concatenate([model(part).softmax(1).amax(1).numpy() for part in images.split(100)])


def _norms(model: nn.Module, images: Tensor, contrast: str) -> Features:
    extractor = FeatureExtractor(model.get_submodule("model"), contrast=contrast, batch_size=64)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))
    return extractor.extract(((images - mean) / std, torch.full((len(images),), -1)), progress=False)


def _print_header(*titles: str) -> None:
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")


def _predictions(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in images.split(100)])


def _share(true: Tensor) -> float:
    return float(true.float().mean())


def _change(images: Tensor, others: Tensor) -> Tensor:
    return (images - others).square().mean((1, 2, 3)).sqrt()


def _purview(known: Features, unknown: Features, head: str, fit: int) -> float:
    detector = Purview(head, folds=None, random_state=0).fit(known[:fit], unknown[:fit])
    return float(evaluate(detector.score(known[FIT:]), detector.score(unknown[FIT:])).auroc)


def _pixels(known: Tensor, unknown: Tensor, tested_known: Tensor, tested_unknown: Tensor) -> float:
    """AUROC of a CNN that was trained to tell the first two apart, on the other two."""
    torch.manual_seed(0)
    x = torch.cat([known, unknown])
    y = torch.cat([torch.zeros(len(known)), torch.ones(len(unknown))])
    epochs, size = 8, 64
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 1),
    )  # fmt: skip
    steps = epochs * -(-len(x) // size)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(size):
            batch = x[rows].flip(-1) if torch.rand(()) < 0.5 else x[rows]
            loss = F.binary_cross_entropy_with_logits(net(2 * batch - 1)[:, 0], y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        scores = [net(2 * images - 1)[:, 0].double().numpy() for images in (tested_known, tested_unknown)]
    return float(evaluate(*scores).auroc)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
