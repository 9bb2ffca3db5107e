"""Features on disk are plain Parquet: read lazily by other libraries, pruned by statistics, and by later versions of ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from gradfast.features import Features
from gradfast.store import Run
from gradfast.store.layout import SCHEMA_VERSION, fitting_rows

N, C, LAYERS = 50, 3, ("conv.weight", "conv.bias", "fc.weight")
FIXTURES = Path(__file__).parent / "fixtures"


def values(n: int = N) -> np.ndarray:
    """float32 [n, C, L], every one another."""
    return (np.arange(n * C * len(LAYERS), dtype=np.float32) / 7).reshape(n, C, len(LAYERS))


def features(n: int = N) -> Features:
    return Features.from_arrays(
        values(n),
        layers=LAYERS,
        labels=np.arange(n) % 5 - 1,
        logits=np.eye(4, dtype=np.float32)[np.arange(n) % 4],
        classes=[0, 1, 3],
        settings={"contrast": "one-hot", "model": "Sequential"},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five files of ten rows."""
    path = tmp_path_factory.mktemp("store") / "out"
    f = features()
    with Run(path, f.settings) as run:
        run.begin(f.layout, 10)
        for shard in range(5):
            run.commit(shard, f[10 * shard : 10 * shard + 10]._block())
        run.finish()
    return path


def test_pyarrow_reads_columns_and_prunes_rows(folder: Path) -> None:
    dataset = pa.dataset.dataset(sorted(folder.glob("*.parquet")))
    assert dataset.schema.field("sqnorm/fc.weight").type == pa.list_(
        pa.field("element", pa.float32(), False), C
    )
    chosen = pa.dataset.field("index") >= 35
    assert sum(len(f.subset(chosen).row_groups) for f in dataset.get_fragments()) == 2  # 30-39 and 40-49
    table = dataset.to_table(columns=["index", "sqnorm/fc.weight"], filter=chosen)
    assert table["index"].to_pylist() == list(range(35, N))
    np.testing.assert_array_equal(np.stack(table["sqnorm/fc.weight"].to_numpy()), values()[35:, :, 2])


def test_polars_scans(folder: Path) -> None:
    polars = pytest.importorskip("polars")
    lazy = polars.scan_parquet(folder / "*.parquet")
    found = (
        lazy.filter(polars.col("label") == 2)
        .select("index", largest=polars.col("sqnorm/conv.bias").arr.max())
        .collect()
    )
    rows = np.flatnonzero(np.arange(N) % 5 - 1 == 2)
    assert found["index"].to_list() == rows.tolist()
    np.testing.assert_array_equal(found["largest"].to_numpy(), values()[rows, :, 1].max(1))


def test_duckdb_queries(folder: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    # DuckDB counts from 1, so the row of class 3, the third, is [3].
    query = f"""
        select label, count(*), sum("sqnorm/conv.weight"[3]) from '{folder}/*.parquet' group by label order by label
    """
    found = duckdb.sql(query).fetchall()
    labels = np.arange(N) % 5 - 1
    assert [(label, count) for label, count, _ in found] == [(label, 10) for label in range(-1, 4)]
    wanted = [values()[labels == label, 2, 0].sum(dtype=np.float64) for label in range(-1, 4)]
    np.testing.assert_allclose([total for *_, total in found], wanted, rtol=1e-6)


@pytest.mark.parametrize("streaming", [False, True])
def test_hugging_face_loads(folder: Path, tmp_path: Path, streaming: bool) -> None:
    datasets = pytest.importorskip("datasets")
    files = [str(path) for path in sorted(folder.glob("*.parquet"))]
    loaded = datasets.load_dataset(
        "parquet", data_files=files, split="train", streaming=streaming, cache_dir=str(tmp_path)
    )
    rows = list(loaded)
    assert [row["index"] for row in rows] == list(range(N))
    np.testing.assert_array_equal([row["sqnorm/conv.weight"] for row in rows], values()[:, :, 0])


def test_row_groups_have_statistics(folder: Path) -> None:
    for shard, path in enumerate(sorted(folder.glob("*.parquet"))):
        metadata = pq.ParquetFile(path).metadata
        assert metadata.num_row_groups == 1
        of = {metadata.schema.column(i).path: metadata.row_group(0).column(i).statistics for i in range(metadata.num_columns)}  # fmt: skip
        assert (of["index"].min, of["index"].max) == (10 * shard, 10 * shard + 9)
        norms = of["sqnorm/fc.weight.list.element"]
        here = values()[10 * shard : 10 * shard + 10, :, 2]
        assert (norms.min, norms.max, norms.null_count) == (here.min(), here.max(), 0)


def test_files_stay_small_enough_to_be_put_together_in_memory() -> None:
    wide = Features.from_arrays(np.zeros((1, 1000, 62), np.float32), layers=[f"l{i}" for i in range(62)])
    assert fitting_rows(wide.layout) * wide.layout.row_bytes <= 2**26


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_every_schema_version_is_read(version: int) -> None:
    """The committed directories are those of the version that first wrote that schema, by `python tests/test_store_readers.py`."""
    stored = Features.load(FIXTURES / f"store_v{version}")
    stored.verify()
    wanted = features(7)
    assert stored.layers == wanted.layers
    assert stored.layout.classes == (0, 1, 3)
    assert stored.settings == wanted.settings
    for name in ("values", "labels", "predictions", "flagged", "index", "logits"):
        np.testing.assert_array_equal(getattr(stored, name), getattr(wanted, name), err_msg=name)


if __name__ == "__main__":
    features(7).save(FIXTURES / f"store_v{SCHEMA_VERSION}")
