"""Features in memory and on disk: the same numbers, read when needed, and never a wrong one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import torch

from gradfast.errors import InputError
from gradfast.features import Features
from gradfast.store import CorruptError, ShardFile, StoreError
from gradfast.store.files import write_sealed
from gradfast.store.layout import SCHEMA_VERSION

LAYERS = ("conv1.weight", "conv1.bias", "layer1.0.weight", "layer10.weight", "fc.weight")
N, C, L, K = 5000, 3, len(LAYERS), 4  # three files
SETTINGS = {"model": "Net", "model_fingerprint": "ab12", "source": {"samples": N}}


def arrays(seed: int = 0, n: int = N) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(seed)
    values = np.exp(3 * rng.standard_normal((n, C, L))).astype(np.float32)
    values[1] = np.nan
    values[2, 0, 0] = np.inf
    values[3, 1] = 0
    logits = rng.standard_normal((n, K)).astype(np.float32)
    logits[1] = np.nan
    return {"values": values, "logits": logits, "labels": rng.integers(-1, K, n)}


def make(seed: int = 0, n: int = N, **changes: Any) -> Features:
    return Features.from_arrays(
        **{**arrays(seed, n), "layers": LAYERS, "classes": [0, 2, 3], "settings": SETTINGS, **changes}
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that no test alters."""
    folder = tmp_path_factory.mktemp("features") / "f"
    make().save(folder)
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A directory of one small file, to be damaged."""
    make(n=20).save(tmp_path / "f")
    return tmp_path / "f"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[str, ...]]]:
    """(file, columns) of each read from disk."""
    seen: list[tuple[str, tuple[str, ...]]] = []
    read = ShardFile.read

    def noted(self: ShardFile, columns: Any) -> Any:
        seen.append((self.path.name, tuple(columns)))
        return read(self, columns)

    monkeypatch.setattr(ShardFile, "read", noted)
    return seen


def equal(a: Features, b: Features) -> None:
    """Raises unless all columns are the same bits."""
    assert a.layers == b.layers
    assert a.shape == b.shape
    for name in ("values", "logits", "labels", "predictions", "index", "flagged", "classes"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


class TestFromArrays:
    def test_defaults(self) -> None:
        f = Features.from_arrays(np.ones((3, 2)), layers=["a", "b"])
        assert f.shape == (3, 1, 2)
        assert f.values.dtype == np.float32
        assert f.index.tolist() == [0, 1, 2]
        assert f.labels.tolist() == f.predictions.tolist() == [-1, -1, -1]
        assert not f.flagged.any()
        assert f.logits is None
        assert f.classes is None
        assert f.settings == {}

    def test_flags_and_predictions_follow_the_values(self) -> None:
        f = make()
        assert np.flatnonzero(f.flagged).tolist() == [1, 2]
        assert f.predictions[1] == -1
        assert f.predictions[0] == arrays()["logits"][0].argmax()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"layers": ["a"]}, r"values: got shape \[20, 3, 5\] for 1 layers"),
            ({"layers": ["a"] * 5}, "layers: .*all different"),
            ({"labels": [1, 2]}, r"labels: got int64 of shape \[2\]; wanted integers \[20\]"),
            ({"labels": np.ones(20)}, "labels: got float64"),
            ({"logits": np.ones((3, 4))}, r"logits: got shape \[3, 4\]; wanted \[20, K\]"),
            ({"classes": [1, 2]}, r"classes: got shape \[2\]; wanted \[3\] or \[20, 3\]"),
            ({"flagged": [True]}, r"flagged: got shape \[1\]; wanted \[20\]"),
        ],
    )
    def test_refuses(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            make(n=20, **changes)


class TestRoundTrip:
    def test_all_columns(self, saved: Path) -> None:
        loaded = Features.load(saved)
        equal(loaded, make())
        assert loaded.settings == SETTINGS
        loaded.verify()

    def test_classes_of_each_sample(self, tmp_path: Path) -> None:
        classes = np.random.default_rng(0).integers(0, K, (20, C))
        f = make(n=20, classes=classes)
        f.save(tmp_path / "f")
        loaded = Features.load(tmp_path / "f")
        equal(loaded, f)
        np.testing.assert_array_equal(loaded.classes, classes)

    def test_without_logits_and_without_rows(self, tmp_path: Path) -> None:
        f = make(n=20, logits=None, classes=None)
        f.save(tmp_path / "a")
        equal(Features.load(tmp_path / "a"), f)
        f[:0].save(tmp_path / "b")
        empty = Features.load(tmp_path / "b")
        assert empty.values.shape == (0, C, L)
        assert len(empty.labels) == 0

    def test_same_features_give_the_same_bytes(self, saved: Path, tmp_path: Path) -> None:
        Features.load(saved).save(tmp_path / "again")
        files = sorted(path.name for path in saved.iterdir())
        assert files == ["_manifest.json", "part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
        for name in files:
            assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()

    def test_selection_is_saved(self, saved: Path, tmp_path: Path) -> None:
        part = Features.load(saved).select("*.bias", classes=[3])[100:200]
        part.save(tmp_path / "part")
        equal(Features.load(tmp_path / "part"), part)

    def test_does_not_overwrite(self, saved: Path) -> None:
        with pytest.raises(StoreError, match="holds features already"):
            make().save(saved)

    def test_does_not_touch_files_of_another_origin(self, tmp_path: Path) -> None:
        (tmp_path / "part-00000.parquet").write_bytes(b"precious")
        with pytest.raises(StoreError, match=r"holds part-00000\.parquet of another origin"):
            make().save(tmp_path)
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"precious"]


class TestLaziness:
    def test_loading_and_selecting_read_nothing(self, saved: Path, reads: list[Any]) -> None:
        f = Features.load(saved).select("conv1")[10:20]
        assert f.shape == (10, C, 2)
        assert "10 samples" in repr(f)
        assert reads == []

    def test_reads_only_these_layers(self, saved: Path, reads: list[Any]) -> None:
        values = Features.load(saved).select("layer1").values
        np.testing.assert_array_equal(values, arrays()["values"][:, :, [2]])
        assert {columns for _, columns in reads} == {("sqnorm/layer1.0.weight",)}

    def test_reads_only_the_files_that_hold_the_rows(self, saved: Path, reads: list[Any]) -> None:
        rows = np.array([4999, 3, 4500, 3])
        np.testing.assert_array_equal(Features.load(saved)[rows].labels, arrays()["labels"][rows])
        assert sorted(reads) == [("part-00000.parquet", ("label",)), ("part-00002.parquet", ("label",))]

    def test_values_are_read_once(self, saved: Path, reads: list[Any]) -> None:
        f = Features.load(saved)
        assert f.values is f.values
        assert len(reads) == 3

    def test_layers_are_parquet_columns_for_any_reader(self, saved: Path) -> None:
        table = pyarrow.dataset.dataset(saved).to_table(columns=["index", "sqnorm/fc.weight"])
        assert table["index"].to_pylist() == list(range(N))
        assert (
            np.array(table["sqnorm/fc.weight"][10].as_py(), np.float32).tolist()
            == arrays()["values"][10, :, 4].tolist()
        )
        metadata = pq.ParquetFile(saved / "part-00001.parquet").metadata
        assert metadata.row_group(0).column(0).statistics.min == 2048
        assert json.loads(metadata.metadata[b"gradfast"])["layers"] == list(LAYERS)


class TestSelection:
    @pytest.fixture(params=["memory", "disk"])
    def f(self, request: pytest.FixtureRequest, saved: Path) -> Features:
        """The same features in both places."""
        return make() if request.param == "memory" else Features.load(saved)

    def test_layers_by_name_prefix_and_glob(self, f: Features) -> None:
        assert f.select("layer1").layers == ("layer1.0.weight",)
        assert f.select(["fc.weight", "*.bias"]).layers == ("conv1.bias", "fc.weight")
        np.testing.assert_array_equal(f.select(["fc", "*.bias"]).values, arrays()["values"][:, :, [1, 4]])
        with pytest.raises(InputError, match=r"no parameter is called 'fc.wieght'; nearest: 'fc.weight'"):
            f.select("fc.wieght")

    def test_classes_in_the_order_asked_for(self, f: Features) -> None:
        g = f.select(classes=[3, 0])
        assert g.classes is not None
        assert g.classes.tolist() == [3, 0]
        np.testing.assert_array_equal(g.values, arrays()["values"][:, [2, 0]])
        for one in (0, np.int64(0)):
            np.testing.assert_array_equal(g.select(classes=one).values, arrays()["values"][:, [0]])
        with pytest.raises(InputError, match=r"classes: got \[1\]; wanted some of \[0, 2, 3\]"):
            f.select(classes=[1])

    def test_rows(self, f: Features) -> None:
        mask = arrays()["labels"] == 2
        rows = np.random.default_rng(0).permutation(N)
        for chosen in (mask, rows, slice(100, 4500, 7), [-1, 0], np.array([], dtype=int)):
            np.testing.assert_array_equal(f[chosen].values, arrays()["values"][chosen])
            np.testing.assert_array_equal(f[chosen].index, np.arange(N)[chosen])
        np.testing.assert_array_equal(f[rows][mask][5:9].values, arrays()["values"][rows][mask][5:9])
        assert f[7].index.tolist() == [7]
        assert f[[]].shape == (0, *f.shape[1:])
        with pytest.raises(IndexError):
            f[N]

    def test_a_view_does_not_keep_what_its_origin_has_read(self, f: Features) -> None:
        assert f.values.shape == (N, C, L)
        assert f.labels.shape == (N,)
        assert f[:5].select("fc").values.shape == (5, C, 1)
        assert f[:5].labels.shape == (5,)

    def test_concat(self, f: Features) -> None:
        other = make(seed=1, n=30)
        both = Features.concat([f.select("conv1")[4000:], other.select("conv1")])
        wanted = np.concatenate([arrays()["values"][4000:, :, :2], arrays(1, 30)["values"][:, :, :2]])
        np.testing.assert_array_equal(both.values, wanted)
        np.testing.assert_array_equal(both[900:1010].values, wanted[900:1010])
        assert both.index.tolist() == [*range(4000, N), *range(30)]
        assert both.settings["source"] == [{"samples": N}, {"samples": N}]

    def test_concat_refuses_other_models_layers_and_classes(self, f: Features) -> None:
        for other, message in [
            (
                make(n=20, settings={**SETTINGS, "model_fingerprint": "cd34"}),
                "settings.model_fingerprint was 'ab12', is 'cd34'",
            ),
            (make(n=20).select("conv1"), "layers was"),
            (make(n=20, classes=[0, 1, 2]), "classes was"),
        ]:
            with pytest.raises(InputError, match=message):
                Features.concat([f, other])


class TestConversions:
    def test_pandas(self) -> None:
        pytest.importorskip("pandas")
        frame = make(n=20).pandas()
        assert list(frame.columns[:6]) == [
            "index",
            "label",
            "prediction",
            "flagged",
            "conv1.weight/0",
            "conv1.weight/2",
        ]
        assert frame.shape == (20, 4 + C * L)
        np.testing.assert_array_equal(frame["fc.weight/3"], arrays(n=20)["values"][:, 2, 4])
        one_row = Features.from_arrays(np.ones((2, 2)), layers=["a", "b"]).pandas()
        assert list(one_row.columns[4:]) == ["a", "b"]

    def test_torch_and_numpy(self) -> None:
        f = make(n=20)
        assert f.numpy() is f.values
        assert f.torch().dtype == torch.float32
        assert f.torch().shape == (20, C, L)


class TestDamage:
    def test_flipped_bits_are_noticed_or_do_not_matter(self, small: Path) -> None:
        file = small / "part-00000.parquet"
        whole = file.read_bytes()
        expected = arrays(n=20)["values"]
        noticed = []
        for at in range(0, len(whole), 5):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
            try:
                np.testing.assert_array_equal(Features.load(small).values, expected)
            except CorruptError as error:
                noticed.append(str(error))
        assert all("part-00000.parquet" in message for message in noticed)
        assert len(noticed) > len(whole) / 5 / 2  # the other columns' bytes do not matter

    def test_only_what_is_read_is_checked(self, small: Path) -> None:
        file = small / "part-00000.parquet"
        chunk = pq.ParquetFile(file).metadata.row_group(0).column(5)
        assert chunk.path_in_schema.startswith("sqnorm/conv1.weight")
        data = bytearray(file.read_bytes())
        data[chunk.data_page_offset + chunk.total_compressed_size - 1] ^= 1
        file.write_bytes(data)
        f = Features.load(small)
        assert f.select("fc").values.shape == (20, C, 1)
        with pytest.raises(
            CorruptError, match=r"part-00000\.parquet: column sqnorm/conv1\.weight was altered"
        ):
            f.select("conv1").values  # noqa: B018
        with pytest.raises(CorruptError, match="column sqnorm/conv1"):
            f.verify()

    @pytest.mark.parametrize("kept", [0, 3, 100, -1])
    def test_truncated_file_is_named(self, small: Path, kept: int) -> None:
        file = small / "part-00000.parquet"
        file.write_bytes(file.read_bytes()[:kept])
        with pytest.raises(CorruptError, match=r"part-00000\.parquet: has \d+ bytes, was written with"):
            Features.load(small).labels  # noqa: B018

    def test_missing_file_is_named(self, small: Path) -> None:
        (small / "part-00000.parquet").unlink()
        with pytest.raises(CorruptError, match=r"part-00000\.parquet: cannot be read"):
            Features.load(small).verify()

    def test_altered_manifest(self, small: Path) -> None:
        manifest = small / "_manifest.json"
        manifest.write_text(manifest.read_text().replace("ab12", "ab13"))
        with pytest.raises(CorruptError, match=r"_manifest\.json: altered since it was written"):
            Features.load(small)
        manifest.write_text("{")
        with pytest.raises(CorruptError, match=r"_manifest\.json: not what gradfast wrote"):
            Features.load(small)

    def test_manifest_does_not_lead_out_of_its_directory(self, small: Path) -> None:
        stored = json.loads((small / "_manifest.json").read_text())
        del stored["sha256"]
        stored["shards"][0]["file"] = "../other/part-00000.parquet"
        write_sealed(small / "_manifest.json", stored, small)
        with pytest.raises(CorruptError, match=r"names the file '\.\./other/part-00000\.parquet'"):
            Features.load(small)

    def test_newer_schema(self, small: Path) -> None:
        stored = json.loads((small / "_manifest.json").read_text())
        del stored["sha256"]
        write_sealed(small / "_manifest.json", {**stored, "schema": SCHEMA_VERSION + 1}, small)
        with pytest.raises(
            StoreError, match=rf"schema {SCHEMA_VERSION + 1}; this gradfast reads up to {SCHEMA_VERSION}"
        ):
            Features.load(small)

    def test_no_features(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="no such directory"):
            Features.load(tmp_path / "nowhere")
        with pytest.raises(StoreError, match=r"holds no features, for it has no _manifest\.json"):
            Features.load(tmp_path)
