"""The tutorial's three tables, and an ablation, as declarations."""

from __future__ import annotations

from collections.abc import Mapping

from gradfast.studies.declaration import ModelEntry, Profile, Study

__all__ = ["ABLATION", "ADVERSARIAL", "BUILTIN", "CORRUPTION", "OOD", "TINY_IMAGENET"]

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

# Images of a set in the full profiles: studies with as many share what is kept.
_SMALL, _LARGE = 400, 5000

OOD = Study(
    "ood",
    "ood",
    "Out-of-distribution detection",
    (*_CIFAR_MODELS, _SVHN, _MNIST),
    (*_PURVIEW, "penultimate", "one-class", "one-class-one-hot", "max-softmax", "odin", "energy", *_MAHALANOBIS, "vim", "knn", "gradnorm"),
    outside={
        "cifar10": ("tiny-imagenet", "svhn", "lsun", "mnist", "omniglot", "fashion-mnist", "textures",
                    "gaussian-noise", "uniform-noise"),
        "svhn": ("cifar10", "tiny-imagenet", "lsun", "mnist", "omniglot", "textures", "gaussian-noise", "uniform-noise"),
        "mnist": ("omniglot", "fashion-mnist", "cifar10-grey"),
    },
    profiles={
        "quick": Profile(200, 1000, 3, models=("resnet20",)),
        "full": Profile(_SMALL, 2000, 5, model_images={"resnet56": 200, "densenet": 200}),
    },
)  # fmt: skip

TINY_IMAGENET = Study(
    "ood",
    "tiny-imagenet",
    "CIFAR-10 against Tiny ImageNet",
    (_resnet(20),),
    (*_PURVIEW, "penultimate", "one-class", "one-class-one-hot", "max-softmax", "odin", "energy", "mahalanobis",
     "mahalanobis-fe", "vim", "knn", "gradnorm"),
    outside={"cifar10": ("tiny-imagenet",)},
    profiles={"quick": Profile(400, 1000, 3), "full": Profile(_LARGE, 2000, 5)},
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
        "full": Profile(800, 2000, 5, model_images={"resnet56": 400, "densenet": 400}),
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
        "full": Profile(500, 5000, 5, model_images={"resnet56": 200, "densenet": 200}),
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
        "quick": Profile(200, 1000, 3),
        "full": Profile(_LARGE, 2000, 3, set_images=dict.fromkeys(("mnist", "omniglot", "gaussian-noise"), _SMALL)),
    },
)  # fmt: skip

BUILTIN: Mapping[str, Study] = {
    study.name: study for study in (OOD, TINY_IMAGENET, ADVERSARIAL, CORRUPTION, ABLATION)
}
