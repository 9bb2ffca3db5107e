"""The tutorial's three tables, and an ablation, as declarations."""

from __future__ import annotations

from collections.abc import Mapping

from gradfast.studies.declaration import ModelEntry, Profile, Study

__all__ = ["ABLATION", "ADVERSARIAL", "BUILTIN", "CORRUPTION", "OOD"]

# What the given CIFAR weights were trained with (ImageNet's statistics).
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _resnet(depth: int) -> ModelEntry:
    return ModelEntry(
        f"resnet{depth}", f"cifar_resnet{depth}", "cifar10", f"cifar10-resnet{depth}.safetensors", "cifar10-train",
        mean=_MEAN, std=_STD, paper="ResNet",
        where=f"gradfast train cifar_resnet{depth} torchvision:CIFAR10:ROOT -o DIR",
    )  # fmt: skip


_DENSENET = ModelEntry(
    "densenet", "densenet_bc_40_12", "cifar10", "cifar10-densenet_bc_40_12.safetensors", "cifar10-train",
    mean=_MEAN, std=_STD, paper="DenseNet", where="gradfast train densenet_bc_40_12 torchvision:CIFAR10:ROOT -o DIR",
)  # fmt: skip


def _trained_here(name: str, inside: str) -> ModelEntry:
    return ModelEntry(
        f"resnet20-{name}", "cifar_resnet20", inside, f"{name}-resnet20.safetensors", f"{inside}-train",
        mean=_MEAN, std=_STD, where=f"gradfast train cifar_resnet20 torchvision:{name.upper()}:ROOT -o DIR",
    )  # fmt: skip


_SVHN, _MNIST = _trained_here("svhn", "svhn"), _trained_here("mnist", "mnist")
_CURE = ModelEntry(
    "resnet20-cure-tsr", "cifar_resnet20", "cure-tsr", "cure-tsr-resnet20.safetensors", "cure-tsr-train",
    mean=_MEAN, std=_STD, where="gradfast train cifar_resnet20 CURE-TSR/Real_Train/ChallengeFree -o DIR",
)  # fmt: skip
_CIFAR_MODELS = (_resnet(20), _resnet(56), _DENSENET)

_PURVIEW = ("purview-all-ones", "purview-one-hot")
_MAHALANOBIS = ("mahalanobis", "mahalanobis-p", "mahalanobis-fe", "mahalanobis-p-fe")

# Sets of the full profile with fewer images than CIFAR-10 and Tiny ImageNet, whose figures are the goal.
_OTHERS = (
    "mnist",
    "omniglot",
    "fashion-mnist",
    "textures",
    "gaussian-noise",
    "uniform-noise",
    "cifar10-grey",
    "svhn",
    "lsun",
)

OOD = Study(
    "ood",
    "ood",
    "Out-of-distribution detection",
    (*_CIFAR_MODELS, _SVHN, _MNIST),
    (*_PURVIEW, "penultimate", "one-class", "max-softmax", "odin", "energy", *_MAHALANOBIS, "vim", "knn", "gradnorm"),
    outside={
        "cifar10": ("tiny-imagenet", "svhn", "lsun", "mnist", "omniglot", "fashion-mnist", "textures",
                    "gaussian-noise", "uniform-noise"),
        "svhn": ("cifar10", "tiny-imagenet", "lsun", "mnist", "omniglot", "textures", "gaussian-noise", "uniform-noise"),
        "mnist": ("omniglot", "fashion-mnist", "cifar10-grey"),
    },
    profiles={
        "quick": Profile(400, 1000, 3, models=("resnet20",),
                         set_images={"fashion-mnist": 200, "gaussian-noise": 200, "uniform-noise": 200}),
        "full": Profile(
            5000, 5000, 5,
            set_images=dict.fromkeys(_OTHERS, 500),
            model_images={"resnet56": 300, "densenet": 200, "resnet20-mnist": 300},
        ),
    },
)  # fmt: skip

ADVERSARIAL = Study(
    "adversarial",
    "adversarial",
    "Detection of adversarial images",
    _CIFAR_MODELS,
    (*_PURVIEW, "penultimate", "one-class", "max-softmax", "lid", *_MAHALANOBIS),
    attacks=("fgsm", "bim", "cw", "pgd", "iterll", "semantic"),
    profiles={
        "quick": Profile(160, 1000, 3, models=("resnet20",)),
        "full": Profile(500, 5000, 5, model_images={"resnet56": 80, "densenet": 60}),
    },
)

CORRUPTION = Study(
    "corruption",
    "corruption",
    "Detection of corrupted images",
    (*_CIFAR_MODELS, _CURE),
    ("purview-all-ones", "penultimate", "one-class", "max-softmax", "mahalanobis", "mahalanobis-fe"),
    corruptions=("noise", "lens_blur", "gaussian_blur", "dirty_lens", "exposure", "snow", "haze", "decolor"),
    profiles={
        "quick": Profile(60, 1000, 3, models=("resnet20",)),
        "full": Profile(500, 5000, 5, model_images={"resnet56": 60, "densenet": 60}),
    },
)

ABLATION = Study(
    "ablation",
    "ablation",
    "What the detector's parts are worth",
    (_resnet(20),),
    ("purview-one-hot", "purview-all-ones", "purview-both", "one-hot-first", "one-hot-last", "all-ones-first", "all-ones-last",
     "raw-one-hot", "raw-all-ones", "sum-one-hot", "sum-all-ones", "penultimate", "penultimate-and-norms",
     "purview-mlp", "penultimate-mlp", "purview-boosting", "max-softmax"),
    outside={"cifar10": ("tiny-imagenet", "mnist", "omniglot", "gaussian-noise")},
    profiles={
        "quick": Profile(400, 1000, 3, set_images={"gaussian-noise": 200}),
        # As many images as the study of out-of-distribution detection: what that has computed is taken from the cache.
        "full": Profile(5000, 5000, 3, set_images=dict.fromkeys(_OTHERS, 500)),
    },
)  # fmt: skip

BUILTIN: Mapping[str, Study] = {study.name: study for study in (OOD, ADVERSARIAL, CORRUPTION, ABLATION)}
