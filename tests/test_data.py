"""Images on disk, and every kind of source as batches."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from gradfast.data import ImageError, NpzImages, PixelImages, Preprocess, jpeg_quality, open_images
from gradfast.data.batches import Batches, as_batches
from gradfast.data.digits import CORRUPTIONS, corrupt, load_digits_split, photo_textures
from gradfast.errors import InputError


def picture(seed: int, size: tuple[int, int] = (8, 6), mode: str = "RGB") -> Image.Image:
    """A picture of random pixels, ``size`` = (width, height)."""
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, three images each."""
    for c, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(3):
            (tmp_path / name / f"{i}.png").write_bytes(encoded(picture(3 * c + i)))
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def parquet(path: Path, images: list[bytes | None], **columns: Any) -> Path:
    table = pa.table({"image": pa.array(images, pa.binary()), **columns})
    table = table.replace_schema_metadata({"classes": json.dumps(["zero", "one", "two"])})
    pq.write_table(table, path, row_group_size=3)
    return path


class TestPreprocess:
    def test_scales_and_normalises(self) -> None:
        image = picture(0)
        x = Preprocess(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))(image)
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).double() / 255
        wanted = (pixels - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(
            3, 1, 1
        )
        assert x.dtype == torch.float32
        torch.testing.assert_close(x.double(), wanted, rtol=1e-5, atol=1e-6)

    def test_size_is_height_then_width(self) -> None:
        assert Preprocess(size=(4, 10))(picture(0)).shape == (3, 4, 10)
        assert Preprocess(size=5, channels=1)(picture(0)).shape == (1, 5, 5)

    def test_pixel_layouts_agree(self) -> None:
        pixels = np.asarray(picture(0))
        expected = Preprocess()(picture(0))
        assert torch.equal(Preprocess()(pixels), expected)
        assert torch.equal(Preprocess()(pixels.transpose(2, 0, 1)), expected)
        assert torch.equal(Preprocess()(torch.from_numpy(pixels.copy())), expected)

    def test_sixteen_bit_grey_is_scaled_not_clipped(self) -> None:
        deep = Image.fromarray(np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16))
        x = Preprocess(channels=1)(deep)
        assert (x * 255).round().int().tolist() == [[[0, 100], [200, 255]]]

    def test_pixels_that_are_floats_are_refused(self, tmp_path: Path) -> None:
        Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(tmp_path / "a.tif")
        with pytest.raises(ImageError, match=r"a\.tif: image: its pixels are floats"):
            open_images(tmp_path, Preprocess(channels=1))[0]

    def test_jpeg_pass_is_that_of_a_jpeg_file_of_the_final_size(self) -> None:
        image = picture(1, (16, 16))
        stored = Image.open(io.BytesIO(encoded(image, "JPEG", quality=60, subsampling="4:2:0")))
        assert torch.equal(Preprocess(jpeg_quality=60)(image), Preprocess()(stored))
        assert not torch.equal(Preprocess(jpeg_quality=60)(image), Preprocess()(image))

    @pytest.mark.parametrize("quality", [1, 35, 50, 75, 95, 100])
    def test_jpeg_quality_reads_what_pillow_wrote(self, quality: int) -> None:
        assert jpeg_quality(encoded(picture(0), "JPEG", quality=quality)) == quality

    def test_jpeg_quality_of_other_formats_is_none(self) -> None:
        assert jpeg_quality(encoded(picture(0))) is None
        assert jpeg_quality(b"no image") is None

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"channels": 4}, "channels: got 4"),
            ({"size": 0}, "size: got 0"),
            ({"std": 0.0}, "std: got 0.0"),
            ({"mean": (0.1, 0.2)}, "mean: got .*wanted a number, or 3"),
            ({"jpeg_quality": 101}, "jpeg_quality: got 101"),
        ],
    )
    def test_refuses(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            Preprocess(**options)

    def test_refuses_pixels_that_are_not_bytes(self) -> None:
        with pytest.raises(InputError, match=r"image: got float64 of shape \[4, 4\]; wanted uint8"):
            Preprocess()(np.zeros((4, 4)))


class TestImageFolder:
    def test_reads_classes_in_the_order_of_their_names(self, folder: Path) -> None:
        images = open_images(folder)
        assert len(images) == 6
        assert images.classes == ("cat", "dog")
        assert [label for _, label in (images[i] for i in range(6))] == [0, 0, 0, 1, 1, 1]
        assert torch.equal(images[4][0], Preprocess()(picture(4)))

    def test_hidden_folders_are_no_classes(self, folder: Path) -> None:
        for hidden in (folder / ".ipynb_checkpoints", folder / "cat" / ".thumbnails"):
            hidden.mkdir()
            (hidden / "0-checkpoint.png").write_bytes(encoded(picture(0)))
        images = open_images(folder)
        assert images.classes == ("cat", "dog")
        assert [images[i][1] for i in range(len(images))] == [0, 0, 0, 1, 1, 1]

    def test_a_class_without_images_keeps_its_number(self, folder: Path) -> None:
        (folder / "cow").mkdir()
        images = open_images(folder)
        assert images.classes == ("cat", "cow", "dog")
        assert [images[i][1] for i in range(len(images))] == [0, 0, 0, 2, 2, 2]

    def test_flat_folder_has_no_labels(self, folder: Path) -> None:
        images = open_images(folder / "dog", limit=2)
        assert len(images) == 2
        assert images.classes is None
        assert images[1][1] == -1

    @pytest.mark.parametrize(
        "content", [b"", b"GIF89a but no more", encoded(picture(0))[:60]], ids=["empty", "junk", "cut"]
    )
    def test_unreadable_image_is_named(self, folder: Path, content: bytes) -> None:
        (folder / "dog" / "1.png").write_bytes(content)
        with pytest.raises(ImageError, match=r"dog/1\.png: "):
            open_images(folder)[4]

    def test_decompression_bomb_is_refused(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        with pytest.raises(ImageError, match=r"cat/0\.png: refused, it could be a decompression bomb"):
            open_images(folder)[0]

    def test_without_images(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="holds no images"):
            open_images(tmp_path)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"there is no .*nowhere"):
            open_images(tmp_path / "nowhere")

    def test_fingerprint_tells_sets_apart(self, folder: Path) -> None:
        before = open_images(folder).fingerprint()
        assert open_images(folder).fingerprint() == before
        assert open_images(folder, limit=4).fingerprint() != before
        (folder / "dog" / "2.png").write_bytes(encoded(picture(9, (9, 9))))
        assert open_images(folder).fingerprint() != before

    def test_fingerprint_tells_uncompressed_sets_of_the_same_names_apart(self, tmp_path: Path) -> None:
        for seed, name in enumerate(("known", "unknown")):
            (tmp_path / name).mkdir()
            for i in range(5):
                picture(10 * seed + i).save(tmp_path / name / f"{i}.bmp")
        known, unknown = (open_images(tmp_path / name).fingerprint() for name in ("known", "unknown"))
        assert known != unknown
        assert open_images(tmp_path / "known").fingerprint() == known


class TestImageParquet:
    def test_reads_across_row_groups(self, tmp_path: Path) -> None:
        path = parquet(
            tmp_path / "a.parquet", [encoded(picture(i)) for i in range(7)], label=[0, 1, 2, 0, 1, 2, 0]
        )
        images = open_images(path)
        assert len(images) == 7
        assert images.classes == ("zero", "one", "two")
        for i in (5, 0, 6, 2):
            x, label = images[i]
            assert torch.equal(x, Preprocess()(picture(i)))
            assert label == i % 3

    def test_folder_of_files_and_hugging_face_structs(self, tmp_path: Path) -> None:
        for f in range(2):
            structs = [{"bytes": encoded(picture(2 * f + i)), "path": None} for i in range(2)]
            pq.write_table(pa.table({"img": structs, "label": [f, f]}), tmp_path / f"{f}.parquet")
        images = open_images(tmp_path)
        assert len(images) == 4
        assert torch.equal(images[3][0], Preprocess()(picture(3)))
        assert images[3][1] == 1

    def test_folder_of_splits_is_read_by_split(self, tmp_path: Path) -> None:
        for i, name in enumerate(
            ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001")
        ):
            parquet(tmp_path / f"{name}.parquet", [encoded(picture(i))] * (i + 1), label=[i] * (i + 1))
        train = open_images(tmp_path, split="train")
        assert [train[i][1] for i in range(len(train))] == [0, 1, 1]
        assert len(open_images(tmp_path, split="val")) == 3
        with pytest.raises(InputError, match="holds the splits train, validation; got 'test'"):
            open_images(tmp_path)

    def test_one_split_alone_is_all_of_a_folder(self, tmp_path: Path) -> None:
        for name in ("train-0", "more"):
            parquet(tmp_path / f"{name}.parquet", [encoded(picture(0))])
        assert len(open_images(tmp_path)) == 2

    def test_class_names_of_hugging_face(self, tmp_path: Path) -> None:
        features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
        table = pa.table({"image": [{"bytes": encoded(picture(0)), "path": None}], "label": [1]})
        for metadata in ({"info": {"features": features}}, {"info": {"features": {"image": {}}}}, [1]):
            pq.write_table(
                table.replace_schema_metadata({"huggingface": json.dumps(metadata)}), tmp_path / "a.parquet"
            )
            wanted = ("cat", "dog") if metadata == {"info": {"features": features}} else None
            assert open_images(tmp_path / "a.parquet").classes == wanted

    def test_unlabelled(self, tmp_path: Path) -> None:
        assert open_images(parquet(tmp_path / "a.parquet", [encoded(picture(0))]))[0][1] == -1

    @pytest.mark.parametrize("bad", [b"junk", None])
    def test_unreadable_row_is_named(self, tmp_path: Path, bad: bytes | None) -> None:
        images = open_images(parquet(tmp_path / "a.parquet", [encoded(picture(0))] * 4 + [bad]))
        with pytest.raises(ImageError, match=r"a\.parquet, row 4: "):
            images[4]

    def test_not_parquet(self, tmp_path: Path) -> None:
        (tmp_path / "a.parquet").write_bytes(b"PAR1 but no more")
        with pytest.raises(InputError, match=r"a\.parquet cannot be read as Parquet"):
            open_images(tmp_path / "a.parquet")

    def test_without_image_column(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
        with pytest.raises(InputError, match="has columns x; wanted one called image"):
            open_images(tmp_path / "a.parquet")

    def test_labels_must_be_integers(self, tmp_path: Path) -> None:
        path = parquet(tmp_path / "a.parquet", [encoded(picture(0))], label=["zero"])
        with pytest.raises(InputError, match="column label is of type string; wanted integers"):
            open_images(path)


class TestNpz:
    def test_names_of_a_split(self, tmp_path: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 5), dtype=np.uint8)
        np.savez(tmp_path / "a.npz", test_images=pixels, test_labels=[[2], [1], [0]], train_images=pixels[:1])
        images = open_images(tmp_path / "a.npz", Preprocess(channels=1))
        assert torch.equal((images[1][0] * 255).round().byte()[0], torch.from_numpy(pixels[1]))
        assert images[0][1] == 2
        assert len(open_images(tmp_path / "a.npz", split="train")) == 1

    def test_pickles_are_refused(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
        with pytest.raises(InputError, match=r"a\.npz cannot be read as \.npz"):
            NpzImages(tmp_path / "a.npz", Preprocess())

    def test_without_images(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", weights=np.zeros(3))
        with pytest.raises(InputError, match="holds weights; wanted one of test_images"):
            open_images(tmp_path / "a.npz")

    def test_pixels_must_be_bytes(self) -> None:
        with pytest.raises(InputError, match=r"pixels is float64 of shape \[2, 4, 4\]; wanted uint8"):
            PixelImages(np.zeros((2, 4, 4)), None, Preprocess())


class TestTorchvision:
    def test_reads_a_set_on_disk(self, tmp_path: Path) -> None:
        pytest.importorskip("torchvision")
        raw = tmp_path / "MNIST" / "raw"
        raw.mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
        for name in ("train", "t10k"):
            header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in pixels.shape)
            (raw / f"{name}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
            (raw / f"{name}-labels-idx1-ubyte").write_bytes(
                b"\0\0\x08\x01" + (3).to_bytes(4, "big") + bytes([7, 1, 2])
            )
        images = open_images(f"torchvision:MNIST:{tmp_path}", Preprocess(channels=1))
        assert torch.equal((images[2][0] * 255).round().byte()[0], torch.from_numpy(pixels[2]))
        assert images[0][1] == 7
        assert (
            images.fingerprint() != open_images(f"torchvision:MNIST:{tmp_path}", split="train").fingerprint()
        )

    def test_missing_is_not_downloaded(self, tmp_path: Path) -> None:
        pytest.importorskip("torchvision")
        with pytest.raises(InputError, match="torchvision's CIFAR10 cannot be opened in"):
            open_images(f"torchvision:CIFAR10:{tmp_path}")

    def test_unknown_name(self) -> None:
        pytest.importorskip("torchvision")
        with pytest.raises(InputError, match=r"torchvision\.datasets has no 'VisionDataSet'"):
            open_images("torchvision:VisionDataSet:/")


class Squares(Dataset[tuple[Tensor, int]]):
    """Ten samples; remembers which were read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return 10

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        self.read.append(i)
        return torch.full((2,), float(i)), i * i


class Stream(IterableDataset[tuple[Tensor, int]]):
    def __iter__(self) -> Any:
        return iter((torch.full((2,), float(i)), i * i) for i in range(10))


def contents(batches: Batches, start: int = 0) -> tuple[Tensor, Tensor]:
    parts = list(batches.iterate(start))
    return torch.cat([b.inputs for b in parts]), torch.cat([b.labels for b in parts])  # type: ignore[arg-type]


X = torch.arange(10.0).view(10, 1).expand(10, 2).contiguous()
Y = torch.arange(10) ** 2


class TestBatches:
    @pytest.mark.parametrize("start", [0, 2])
    @pytest.mark.parametrize(
        "source",
        [
            (X, Y),
            (X.numpy(), Y.numpy()),
            {"x": X, "label": Y},
            Squares(),
            Subset(Squares(), range(10)),
            TensorDataset(X, Y),
            Stream(),
            DataLoader(Squares(), batch_size=3),
            DataLoader(Stream(), batch_size=3),
            [(X[i : i + 3], Y[i : i + 3]) for i in range(0, 10, 3)],
            [{"x": X[i : i + 3], "labels": Y[i : i + 3, None]} for i in range(0, 10, 3)],
        ],
        ids=lambda source: type(source).__name__,
    )
    def test_every_source_gives_the_same(self, source: Any, start: int) -> None:
        x, labels = contents(as_batches(source, 3), start)
        assert torch.equal(x, X[3 * start :])
        assert torch.equal(labels, Y[3 * start :])

    def test_worker_processes_give_the_same(self) -> None:
        x, labels = contents(as_batches(Squares(), 3, workers=2), 1)
        assert torch.equal(x, X[3:])
        assert torch.equal(labels, Y[3:])

    def test_worker_processes_leave_the_random_state(self) -> None:
        before = torch.get_rng_state()
        contents(as_batches(Squares(), 3, workers=1))
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize(
        "wrap", [lambda d: d, lambda d: DataLoader(d, batch_size=3)], ids=["data set", "loader"]
    )
    def test_what_is_skipped_is_not_read(self, wrap: Any) -> None:
        squares = Squares()
        contents(as_batches(wrap(squares), 3), 2)
        assert sorted(squares.read) == [6, 7, 8, 9]

    def test_unlabelled_is_minus_one(self) -> None:
        assert contents(as_batches(X, 4))[1].tolist() == [-1] * 10
        assert contents(as_batches(TensorDataset(X), 4))[1].tolist() == [-1] * 10

    def test_several_inputs_stay_named(self) -> None:
        batch = next(as_batches({"a": X, "b": X + 1, "labels": Y}, 4).iterate())
        assert isinstance(batch.inputs, dict)
        assert list(batch.inputs) == ["a", "b"]
        assert torch.equal(batch.inputs["b"], X[:4] + 1)

    def test_shuffling_is_told(self) -> None:
        shuffled = DataLoader(Squares(), batch_size=3, shuffle=True)
        seeded = DataLoader(Squares(), batch_size=3, shuffle=True, generator=torch.Generator().manual_seed(0))
        assert "RandomSampler" in str(as_batches(shuffled, 1).shuffles)
        assert as_batches(seeded, 1).shuffles is None

    def test_number_of_samples(self) -> None:
        assert as_batches(DataLoader(Squares(), batch_size=3), 1).samples == 10
        assert as_batches(DataLoader(Squares(), batch_size=3, drop_last=True), 1).samples == 9
        assert as_batches(Stream(), 3).samples is None

    def test_settings_tell_sources_apart(self) -> None:
        sources = [
            (X, Y),
            (X + 1, Y),
            (X, Y + 1),
            Squares(),
            Subset(Squares(), [1, 2]),
            Subset(Squares(), [1, 3]),
        ]
        facts = [json.dumps(as_batches(source, 3).settings(), sort_keys=True) for source in sources]
        again = [json.dumps(as_batches(source, 3).settings(), sort_keys=True) for source in sources]
        assert len(set(facts)) == len(facts)
        assert facts == again

    def test_samples_of_different_shape_are_named(self, folder: Path) -> None:
        (folder / "cat" / "2.png").write_bytes(encoded(picture(0, (5, 5))))
        wanted = r"cat/0\.png has shape \[3, 6, 8\], .*cat/2\.png has \[3, 5, 5\]; wanted one shape .*size"
        with pytest.raises(InputError, match=wanted):
            contents(as_batches(folder, 6))

    def test_unreadable_image_in_a_worker_is_named(self, folder: Path) -> None:
        (folder / "cat" / "2.png").write_bytes(b"")
        with pytest.raises(ImageError, match=r"cat/2\.png"):
            contents(as_batches(folder, 2, workers=1))

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            (3, r"source: got 3 \(int\); wanted a DataLoader"),
            (iter([X]), "source: got .*iterator"),
            (X[:0], r"got x \[0, 2\]; wanted at least one sample"),
            ((X, Y[:3]), r"labels are an int64 tensor of shape \[3\].*wanted integers \[10\]"),
            ((X, Y.float()), "labels are a float32 tensor"),
            ((X, X, X), "wanted x, "),
            (X.byte(), "x is uint8 .*PixelImages"),
            (Subset(Squares(), []), "Subset is empty"),
        ],
    )
    def test_refuses(self, source: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            contents(as_batches(source, 3))


class TestDigits:
    def test_split_is_disjoint_and_renumbered(self) -> None:
        split = load_digits_split(held_out=(3, 9))
        (x, y), (u, v), (w, z) = split.train, split.test, split.held_out
        assert len(x) + len(u) + len(w) == 1797
        assert set(y.tolist()) == set(v.tolist()) == set(range(8))
        assert set(z.tolist()) == {3, 9}
        assert split.digits == (0, 1, 2, 4, 5, 6, 7, 8)
        again = load_digits_split(held_out=(3, 9))
        assert torch.equal(again.train[0], x)
        assert not torch.equal(load_digits_split(held_out=(3, 9), seed=1).train[0], x)

    @pytest.mark.parametrize("kind", CORRUPTIONS)
    def test_corruptions_grow_and_keep_the_quantisation(self, kind: str) -> None:
        x = load_digits_split().test[0][:200]
        distances = [float((corrupt(x, kind, s) - x).abs().mean()) for s in range(1, 6)]
        assert distances == sorted(distances)
        assert distances[0] > 0
        y = corrupt(x, kind, 5)
        assert torch.equal((y * 16).round() / 16, y)
        assert y.min() >= 0
        assert y.max() <= 1
        assert torch.equal(corrupt(x, kind, 5), y)

    def test_photo_textures(self) -> None:
        x = photo_textures(20, seed=1)
        assert x.shape == (20, 1, 8, 8)
        assert torch.equal((x * 16).round() / 16, x)
        assert x.amin((1, 2, 3)).max() == 0
        assert x.amax((1, 2, 3)).min() == 1
        assert torch.equal(photo_textures(20, seed=1), x)

    def test_refuses(self) -> None:
        with pytest.raises(InputError, match="kind: got 'fog'"):
            corrupt(torch.zeros(1, 1, 8, 8), "fog")
        with pytest.raises(InputError, match="severity: got 6"):
            corrupt(torch.zeros(1, 1, 8, 8), "blur", 6)
        with pytest.raises(InputError, match="held_out: got"):
            load_digits_split(held_out=range(9))


@pytest.mark.shared
def test_shared_sets_are_jpeg_of_one_quality(shared: Path) -> None:
    for name in ("cifar10-test", "tiny-imagenet-32-val"):
        images = pq.ParquetFile(shared / f"{name}.parquet").read_row_group(0, columns=["image"])["image"]
        assert {jpeg_quality(images[i].as_py()) for i in range(0, 5000, 500)} == {75}
