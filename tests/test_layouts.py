"""Published layouts of image sets, noise, conversion that is said, equal compression, and where a missing set is to be had."""

from __future__ import annotations

import gzip
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gradfast.data import (
    KNOWN_SETS,
    CifarCorruptions,
    ConversionWarning,
    CureTsrImages,
    IdxImages,
    ImageError,
    NoiseImages,
    PixelImages,
    Preprocess,
    jpeg,
    open_images,
    read_pixels,
    where_to_get,
)
from gradfast.data.corrupted import SIGNS
from gradfast.errors import InputError


def pixels(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def idx(array: Any) -> bytes:
    head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    for name, n in (("train", 7), ("t10k", 4)):
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels(n, n, 28, 28))))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(n) % 10)))
    return tmp_path


class TestIdx:
    def test_reads_both_splits(self, mnist: Path) -> None:
        test, train = (open_images(mnist, Preprocess(channels=1), split=split) for split in ("test", "train"))
        assert (len(test), len(train)) == (4, 7)
        assert torch.equal(test[3][0], torch.from_numpy(pixels(4, 4, 28, 28)[3]).unsqueeze(0) / 255)
        assert [label for _, label in (train[i] for i in range(7))] == list(range(7))
        assert test.fingerprint() != train.fingerprint()

    def test_unpacked_beside_packed_and_without_labels(self, mnist: Path) -> None:
        packed = mnist / "t10k-images-idx3-ubyte.gz"
        (mnist / "t10k-images-idx3-ubyte").write_bytes(gzip.decompress(packed.read_bytes()))
        grey = Preprocess(channels=1)
        assert open_images(mnist, grey).pixels(0)[1] == 0
        (mnist / "t10k-labels-idx1-ubyte.gz").unlink()
        assert open_images(packed, grey).pixels(0)[1] == -1

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "no idx file"),
            (idx(np.arange(4)), "no idx file of unsigned bytes in 3 dimensions"),
            (idx(pixels(0, 4, 28, 28))[:-1], r"has 3,135 bytes for \[4, 28, 28\]; it is truncated"),
            (b"\x1f\x8b damaged", "cannot be read"),
        ],
    )
    def test_damaged_files(self, content: bytes, message: str, mnist: Path) -> None:
        packed = content if content[:2] == b"\x1f\x8b" else gzip.compress(content)
        (mnist / "t10k-images-idx3-ubyte.gz").write_bytes(packed)
        with pytest.raises(InputError, match=message):
            open_images(mnist)

    def test_files_that_do_not_belong_together(self, mnist: Path) -> None:
        (mnist / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(5))))
        with pytest.raises(InputError, match=r"holds 4 images, .* 5 labels"):
            open_images(mnist)

    def test_split_must_be_there_once(self, mnist: Path) -> None:
        with pytest.raises(InputError, match="split: got 'validation'"):
            IdxImages(mnist, Preprocess(), split="validation")
        (mnist / "emnist-test-images-idx3-ubyte").write_bytes(idx(pixels(0, 1, 28, 28)))
        with pytest.raises(InputError, match="2 of them for split 'test'"):
            open_images(mnist)


@pytest.fixture
def cifar_c(tmp_path: Path) -> Path:
    np.save(tmp_path / "fog.npy", pixels(0, 20, 32, 32, 3))
    np.save(tmp_path / "snow.npy", pixels(1, 20, 32, 32, 3))
    np.save(tmp_path / "labels.npy", np.tile(np.arange(4), 5))
    return tmp_path


class TestCifarC:
    def test_levels_are_fifths(self, cifar_c: Path) -> None:
        images = open_images(f"cifar10c:{cifar_c}:fog:3")
        assert len(images) == 4
        assert torch.equal(
            images.pixels(1)[0].permute(1, 2, 0), torch.from_numpy(pixels(0, 20, 32, 32, 3)[9])
        )
        assert [images[i][1] for i in range(4)] == [0, 1, 2, 3]
        assert images.where(1).endswith("fog.npy, row 9")
        assert len(open_images(f"cifar10c:{cifar_c}:fog")) == 20
        assert len(open_images(f"cifar10c:{cifar_c}:fog:3", limit=2)) == 2

    def test_fingerprints_differ(self, cifar_c: Path) -> None:
        specs = [f"cifar10c:{cifar_c}:{name}" for name in ("fog", "snow", "fog:1", "fog:2")]
        assert len({open_images(spec).fingerprint() for spec in specs}) == 4

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("cifar10c:ROOT:rain:1", "corruption: got 'rain'.* has fog, snow"),
            ("cifar10c:ROOT:fog:6", "level: got 6"),
            ("cifar10c:ROOT:fog:x", "got 'x' .*; wanted an integer"),
            ("cifar10c:ROOT", "wanted .cifar10c:ROOT:CORRUPTION:LEVEL"),
            ("cifar10c:ROOT:fog:1:2", "wanted .cifar10c:ROOT:CORRUPTION:LEVEL"),
            ("cifar10c:/nowhere:fog:1", "there is no folder /nowhere; CIFAR-10-C .* is to be had from"),
            ("ROOT", "ROOT holds corruptions; wanted cifar10c:ROOT:CORRUPTION:LEVEL with one of fog, snow"),
        ],
    )
    def test_refuses(self, spec: str, message: str, cifar_c: Path) -> None:
        with pytest.raises(InputError, match=message.replace("ROOT holds", f"{cifar_c} holds").replace(
            "wanted cifar10c:ROOT", f"wanted cifar10c:{cifar_c}")):  # fmt: skip
            open_images(spec.replace("ROOT", str(cifar_c)))

    def test_folder_without_labels(self, cifar_c: Path) -> None:
        (cifar_c / "labels.npy").unlink()
        with pytest.raises(InputError, match=r"holds no labels\.npy"):
            CifarCorruptions(cifar_c, "fog", 1, Preprocess())

    @pytest.mark.parametrize(
        "array", [pixels(0, 21, 32, 32, 3), pixels(0, 20, 32, 32), pixels(0, 20, 4, 4, 3).astype(float), pixels(0, 25, 4, 4, 3)]
    )  # fmt: skip
    def test_arrays_of_another_shape(self, array: Any, cifar_c: Path) -> None:
        np.save(cifar_c / "fog.npy", array)
        with pytest.raises(InputError, match=r"fog\.npy is .*; wanted uint8 \[5 n, H, W, 3\]"):
            open_images(f"cifar10c:{cifar_c}:fog:1")

    def test_pickles_and_damage_are_refused(self, cifar_c: Path) -> None:
        np.save(cifar_c / "fog.npy", np.array([{}], dtype=object), allow_pickle=True)
        with pytest.raises(InputError, match=r"fog\.npy cannot be read as \.npy"):
            open_images(f"cifar10c:{cifar_c}:fog:1")
        (cifar_c / "fog.npy").write_bytes(b"")
        with pytest.raises(InputError, match=r"fog\.npy cannot be read as \.npy"):
            open_images(f"cifar10c:{cifar_c}:fog:1")


@pytest.fixture
def cure_tsr(tmp_path: Path) -> Path:
    """Two signs, clean and behind a lens blur of levels 1 and 5, in the folders that the set has."""
    for folder, kind, level in (("ChallengeFree", 0, 0), ("LensBlur-1", 2, 1), ("LensBlur-5", 2, 5)):
        path = tmp_path / "Real_Test" / folder
        path.mkdir(parents=True)
        for i, sign in enumerate((4, 14)):
            picture = Image.fromarray(pixels(i, 9 + i, 12, 3))
            picture.save(path / f"01_{sign:02}_{kind:02}_{level:02}_{i:04}.bmp")
        (path / "notes.txt").write_text("no image")
    return tmp_path


class TestCureTsr:
    def test_labels_are_the_signs(self, cure_tsr: Path) -> None:
        images = open_images(f"curetsr:{cure_tsr}:lens_blur:5", Preprocess(size=8))
        assert [SIGNS[images[i][1]] for i in range(len(images))] == ["no_stopping", "parking"]
        assert images.classes == SIGNS
        assert images.where(0).endswith("Real_Test/LensBlur-5/01_04_02_05_0000.bmp")

    @pytest.mark.parametrize(
        ("options", "count"), [("", 6), (":none", 2), (":lens_blur", 4), (":lens_blur:1", 2)]
    )
    def test_challenges_and_levels(self, options: str, count: int, cure_tsr: Path) -> None:
        assert len(open_images(f"curetsr:{cure_tsr}{options}")) == count

    def test_plain_folder_is_recognised(self, cure_tsr: Path) -> None:
        images = open_images(cure_tsr / "Real_Test" / "ChallengeFree", Preprocess(size=8))
        assert isinstance(images, CureTsrImages)
        assert [images[i][1] for i in range(2)] == [3, 13]

    def test_fingerprints_differ(self, cure_tsr: Path) -> None:
        one, five = (open_images(f"curetsr:{cure_tsr}:lens_blur:{level}") for level in (1, 5))
        assert one.fingerprint() != five.fingerprint()

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("curetsr:ROOT:fog", "challenge: got 'fog'"),
            ("curetsr:ROOT:noise", "holds no files of CURE-TSR for challenge noise, level any"),
            ("curetsr:ROOT:lens_blur:7", "level: got 7"),
            ("curetsr:", 'wanted "cifar10c'),
            ("curetsr:/nowhere", "there is no folder /nowhere; CURE-TSR .* is to be had from"),
        ],
    )
    def test_refuses(self, spec: str, message: str, cure_tsr: Path) -> None:
        with pytest.raises(InputError, match=message):
            open_images(spec.replace("ROOT", str(cure_tsr)))

    def test_unknown_sign_and_damaged_file(self, cure_tsr: Path) -> None:
        folder = cure_tsr / "Real_Test" / "ChallengeFree"
        (folder / "01_04_00_00_0000.bmp").write_bytes(b"no image")
        with pytest.raises(ImageError, match=r"01_04_00_00_0000\.bmp"):
            open_images(folder)[0]
        (folder / "01_15_00_00_0000.bmp").write_bytes(b"")
        with pytest.raises(InputError, match="is of sign type 15"):
            open_images(folder)


class TestNoise:
    def test_moments(self) -> None:
        uniform, gaussian = (
            read_pixels(open_images(f"noise:{k}:20")).images for k in ("uniform", "gaussian")
        )
        assert float(uniform.mean()) == pytest.approx(0.5, abs=0.01)
        assert float(uniform.std()) == pytest.approx(12**-0.5, abs=0.01)
        assert float((gaussian == 0).float().mean()) == pytest.approx(0.309, abs=0.01)  # P(z < -0.5)

    def test_image_depends_on_seed_and_number_alone(self) -> None:
        first, longer, other = (
            open_images(spec) for spec in ("noise:uniform:3", "noise:uniform:9", "noise:uniform:3:1")
        )
        assert torch.equal(first[2][0], longer[2][0])
        assert not torch.equal(first[2][0], first[1][0])
        assert not torch.equal(first[2][0], other[2][0])
        assert first.fingerprint() != other.fingerprint()
        assert first[0][1] == -1

    def test_is_as_large_as_asked(self) -> None:
        images = open_images("noise:gaussian:2", Preprocess(size=(8, 9), channels=1))
        assert images[0][0].shape == (1, 8, 9)
        assert images.conversions() == ""

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("noise:pink:3", "noise: got 'pink'"),
            ("noise:uniform", "wanted .noise:KIND:COUNT"),
            ("noise:uniform:0", "count: got 0"),
            ("noise:uniform:3:-1", "seed: got -1"),
            ("noise:uniform:many", "got 'many'"),
        ],
    )
    def test_refuses(self, spec: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            open_images(spec)

    def test_refuses_in_python(self) -> None:
        with pytest.raises(InputError, match=r"count: got 2\.5"):
            NoiseImages("uniform", 2.5, Preprocess())  # type: ignore[arg-type]


class TestConversion:
    def test_is_said_once(self, mnist: Path) -> None:
        with pytest.warns(ConversionWarning, match="grey to RGB, 28x28 to 32x32 pixels") as said:
            images = open_images(mnist, Preprocess(size=32))
        assert len(said) == 1
        assert images[0][0].shape == (3, 32, 32)

    @pytest.mark.parametrize(
        ("preprocess", "words"),
        [
            (Preprocess(), ""),
            (Preprocess(size=6), "8x6 to 6x6"),
            (Preprocess(size=(8, 6)), ""),
            (Preprocess(channels=1), "colour to grey"),
        ],
    )
    def test_names_what_changes(self, preprocess: Preprocess, words: str, tmp_path: Path) -> None:
        Image.fromarray(pixels(0, 8, 6, 3)).save(tmp_path / "a.png")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            open_images(tmp_path, preprocess)
        assert [words in str(w.message) for w in said] == ([True] if words else [])


class TestJpeg:
    def test_is_what_pillow_makes_of_it(self) -> None:
        image = pixels(0, 16, 16, 3)
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=75, subsampling="4:2:0")
        assert np.array_equal(jpeg(image[None], 75)[0], np.asarray(Image.open(file)))

    def test_layouts_and_dtypes_agree(self) -> None:
        array = pixels(0, 3, 16, 12, 3)
        wanted = jpeg(array, 50)
        tensor = torch.from_numpy(array).permute(0, 3, 1, 2)
        assert torch.equal(jpeg(tensor, 50).permute(0, 2, 3, 1), torch.from_numpy(wanted))
        floats = jpeg(tensor.float() / 255, 50)
        assert floats.dtype == torch.float32
        assert torch.equal((floats * 255).round().byte(), jpeg(tensor, 50))
        assert np.allclose(jpeg(array.astype(np.float64) / 255, 50), wanted / 255)

    def test_is_what_preprocess_does(self) -> None:
        array = pixels(0, 2, 16, 16, 3)
        stored = PixelImages(array, None, Preprocess(jpeg_quality=60))
        assert torch.equal(
            read_pixels(stored).images, torch.from_numpy(jpeg(array, 60)).permute(0, 3, 1, 2) / 255
        )

    def test_grey_and_empty(self) -> None:
        assert jpeg(pixels(0, 2, 8, 8), 75).shape == (2, 8, 8)
        assert jpeg(pixels(0, 2, 8, 8, 1), 75).shape == (2, 8, 8, 1)
        assert jpeg(torch.zeros(2, 1, 8, 8), 75).shape == (2, 1, 8, 8)
        assert jpeg(pixels(0, 0, 8, 8, 3), 75).shape == (0, 8, 8, 3)

    @pytest.mark.parametrize(
        ("images", "quality", "message"),
        [
            (np.zeros((1, 8, 8, 3), np.uint8), 0, "quality: got 0"),
            (np.zeros((1, 8, 8, 3), np.uint8), 7.5, "quality: got 7.5"),
            (np.zeros((1, 8, 8, 4), np.uint8), 75, r"wanted \[n, H, W\] or \[n, H, W, 1 or 3\]"),
            (np.zeros((8, 8), np.uint8), 75, r"wanted \[n, H, W\]"),
            (np.zeros((1, 8, 8, 3), np.int64), 75, "wanted uint8, or floats"),
            (np.full((1, 8, 8, 3), 2.0), 75, "got values from 2 to 2"),
            (torch.full((1, 3, 8, 8), float("nan")), 75, "got values from nan"),
            (torch.zeros(1, 8, 8, 3), 75, r"wanted \[n, 1 or 3, H, W\]"),
            ("images", 75, "images: got 'images'"),
        ],
    )
    def test_refuses(self, images: Any, quality: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            jpeg(images, quality)


class TestPixels:
    @pytest.fixture
    def images(self) -> PixelImages:
        return PixelImages(pixels(0, 20, 4, 4, 3), np.arange(20), Preprocess(mean=0.5, std=0.1))

    def test_are_without_normalisation(self, images: PixelImages) -> None:
        read = read_pixels(images)
        assert torch.equal(read.bytes.permute(0, 2, 3, 1), torch.from_numpy(pixels(0, 20, 4, 4, 3)))
        assert torch.equal(read.images, read.bytes / 255)
        assert torch.allclose(
            (read.images - 0.5) / 0.1, torch.stack([images[i][0] for i in range(20)]), atol=1e-5
        )
        assert read.index.tolist() == read.labels.tolist() == list(range(20))

    def test_subset_by_seed(self, images: PixelImages) -> None:
        one, same, other = (read_pixels(images, limit=8, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(one.index, same.index)
        assert not torch.equal(one.index, other.index)
        assert one.index.tolist() == sorted(set(one.index.tolist()))
        assert torch.equal(one.bytes, read_pixels(images).bytes[one.index])
        assert read_pixels(images, limit=3).index.tolist() == [0, 1, 2]
        assert len(read_pixels(images, limit=99, seed=0)) == 20

    @pytest.mark.parametrize("limit", [0, -1, 1.5, True])
    def test_refuses_limits(self, limit: Any, images: PixelImages) -> None:
        with pytest.raises(InputError, match="limit: got"):
            read_pixels(images, limit=limit)

    def test_different_sizes_are_named(self, tmp_path: Path) -> None:
        for i, side in enumerate((4, 5)):
            Image.fromarray(pixels(i, side, side, 3)).save(tmp_path / f"{i}.png")
        with pytest.raises(InputError, match=r"0\.png has shape \[3, 4, 4\], .*1\.png has \[3, 5, 5\]"):
            read_pixels(open_images(tmp_path))

    def test_empty(self) -> None:
        with pytest.raises(InputError, match="PixelImages is empty"):
            read_pixels(PixelImages(pixels(0, 0, 4, 4, 3), None, Preprocess()))


class TestMissingSets:
    @pytest.mark.parametrize(
        "name", ["SVHN", "lsun", "DTD", "textures", "Tiny ImageNet", "tiny-imagenet-200", "Omniglot", "MNIST",
                 "fashion-mnist", "CURE-TSR", "CIFAR-10-C", "torchvision:SVHN:/data", "Places365"]
    )  # fmt: skip
    def test_known_by_its_usual_names(self, name: str) -> None:
        said = where_to_get(name)
        assert said is not None
        assert "is to be had from" in said

    def test_unknown(self) -> None:
        assert where_to_get("my-images") is None

    def test_opening_says_where(self, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match=r"there is no .*SVHN; Street View House Numbers .*ufldl\.stanford\.edu"
        ):
            open_images(tmp_path / "SVHN")
        pytest.importorskip("torchvision")
        with pytest.raises(InputError, match=r"cannot be opened in .*ufldl\.stanford\.edu"):
            open_images(f"torchvision:SVHN:{tmp_path}")

    def test_pages_are_names_not_links(self) -> None:
        assert all("://" not in known.page for known in KNOWN_SETS.values())
