"""What a hostile file, name or archive can do: nothing. Each reader refuses it, and names it.

Escaping in reports: test_report. Types in saved detectors: test_detectors. Pickles in weights: test_model_loading.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import gradfast
from gradfast.data import open_images
from gradfast.data.images import ImageError, jpeg_quality
from gradfast.detectors import Purview
from gradfast.errors import GradfastError, InputError
from gradfast.features import Features
from gradfast.models import load_state_dict
from gradfast.store import CorruptError
from gradfast.store.files import read_sealed, write_sealed

PACKAGE = Path(gradfast.__file__).parent
SOURCES = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return open, (str(self.trace), "w")


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Every call with the dotted name of what is called."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


class TestSource:
    """What the package's own source never does."""

    def test_runs_no_text_and_reads_no_pickle(self) -> None:
        forbidden = {
            "eval", "exec", "os.system", "pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "dill.load", "yaml.load",
            "torch.hub.load", "shutil.unpack_archive", "tarfile.open", "urllib.request.urlopen",
        }  # fmt: skip
        found = [
            (path.name, name)
            for path, tree in SOURCES.items()
            for name, _ in calls(tree)
            if name in forbidden
        ]
        assert not found

    @pytest.mark.parametrize(
        ("function", "option", "value"),
        [("torch.load", "weights_only", True), ("np.load", "allow_pickle", False)],
    )
    def test_loaders_are_told_to_take_no_objects(self, function: str, option: str, value: bool) -> None:
        found = [call for tree in SOURCES.values() for name, call in calls(tree) if name == function]
        assert found
        for call in found:
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            assert isinstance(given[option], ast.Constant), ast.unparse(call)
            assert given[option].value is value, ast.unparse(call)

    def test_a_module_is_imported_by_name_only_where_a_person_gives_the_name(self) -> None:
        """`load_model` takes "module:function"; only commands, and the public function itself, lead to it."""
        importing = {
            path.relative_to(PACKAGE).as_posix()
            for path, tree in SOURCES.items()
            for name, _ in calls(tree)
            if name.endswith(("import_module", "__import__", "exec_module"))
        }
        # The package's own lazy names; `load_model`; a hook that hands on an import that somebody else asked for.
        assert importing == {"__init__.py", "models/loading.py", "detectors/interop.py"}
        calling = {
            path.relative_to(PACKAGE).as_posix()
            for path, tree in SOURCES.items()
            if "load_model" in {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        }
        # The workbench's come from the table of its own source, or from `spec` of a declaration: see TestDeclarations.
        commands = {p for p in calling if p.startswith("cli/") or p.endswith("/command.py")}
        assert calling - commands <= {"studies/workbench.py"}


class TestPickles:
    def test_weights(self, tmp_path: Path) -> None:
        torch.save({"weight": Bomb(tmp_path / "trace")}, tmp_path / "w.pt")
        with pytest.raises(
            InputError, match=r"w\.pt is not a plain state dict: it holds pickled Python objects"
        ):
            load_state_dict(tmp_path / "w.pt")
        assert not (tmp_path / "trace").exists()

    def test_weights_that_are_a_bare_pickle(self, tmp_path: Path) -> None:
        (tmp_path / "w.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "trace")))
        with pytest.raises(InputError, match=r"w\.pth"):
            load_state_dict(tmp_path / "w.pth")
        assert not (tmp_path / "trace").exists()

    def test_arrays(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=np.array([Bomb(tmp_path / "trace")], dtype=object))
        with pytest.raises(InputError, match=r"x\.npz cannot be read as \.npz"):
            open_images(tmp_path / "x.npz")
        assert not (tmp_path / "trace").exists()

    def test_a_saved_detector(self, tmp_path: Path) -> None:
        """A pickle in the place of the classifier is not even looked at, its checksum being right or not."""
        rng = np.random.default_rng(0)
        layers = ["a", "b"]
        known, unknown = (Features.from_arrays(rng.random((20, 1, 2)) + k, layers=layers) for k in (0, 1))
        Purview(head="logistic").fit(known, unknown).save(tmp_path / "d")
        import hashlib

        payload = pickle.dumps(Bomb(tmp_path / "trace"))
        (tmp_path / "d" / "classifier.skops").write_bytes(payload)
        about = json.loads((tmp_path / "d" / "detector.json").read_text())
        about["classifier_sha256"] = hashlib.sha256(payload).hexdigest()
        (tmp_path / "d" / "detector.json").write_text(json.dumps(about))
        with pytest.raises((GradfastError, zipfile.BadZipFile)):
            Purview.load(tmp_path / "d")
        assert not (tmp_path / "trace").exists()


class TestDeclarations:
    """A study's TOML names code by `spec`, and by no other key."""

    TEXT = """
title = "a"
outside = ["unknown"]
methods = ["max-softmax"]
[[models]]
name = "net"
spec = "GOOD"
inside = "known"
fit = "known"
where = "b"
paper = "c"
size = 4
[[sets]]
name = "known"
data = "known.npz"
split = "test"
where = "d"
[[sets]]
name = "unknown"
data = ["unknown.npz"]
paper = "e"
"""

    @pytest.mark.parametrize(
        ("old", "runs"),
        [
            ('spec = "GOOD"', True),
            ('title = "a"', False),
            ('outside = ["unknown"]', False),
            ('methods = ["max-softmax"]', False),
            ('name = "net"', False),
            ('inside = "known"', False),
            ('fit = "known"', False),
            ('where = "b"', False),
            ('paper = "c"', False),
            ('weights = ""', False),
            ('data = "known.npz"', False),
            ('split = "test"', False),
            ('where = "d"', False),
            ('data = ["unknown.npz"]', False),
        ],
    )
    def test_spec_alone_is_code(self, tmp_path: Path, old: str, runs: bool) -> None:
        from gradfast.studies import Profile, Settings, read_declaration, run_study

        code = "import torch\ndef net():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))\n"
        (tmp_path / "good.py").write_text(code)
        (tmp_path / "evil.py").write_text(f"{code}open({str(tmp_path / 'trace')!r}, 'w').close()\n")
        for name in ("known", "unknown"):
            np.savez(
                tmp_path / f"{name}.npz", images=np.zeros((8, 4, 4, 3), np.uint8), labels=np.arange(8) % 2
            )
        evil = f'"{tmp_path / "evil.py"}:net"'
        key, _, value = old.partition(" = ")
        new = f"{key} = [{evil}]" if value.startswith("[") else f"{key} = {evil}"
        text = (
            self.TEXT.replace('paper = "c"', 'paper = "c"\nweights = ""') if key == "weights" else self.TEXT
        )
        text = text.replace(old, new, 1).replace("GOOD", f"{tmp_path / 'good.py'}:net")
        (tmp_path / "mine.toml").write_text(text)
        with contextlib.suppress(GradfastError):
            declared = read_declaration(tmp_path / "mine.toml")
            run_study(declared, Profile(8, 8, 1), Settings(roots=(tmp_path,), cache=tmp_path / "cache"))
        assert (tmp_path / "trace").exists() == runs


class TestPaths:
    @pytest.mark.parametrize("name", ["../secret.parquet", "/etc/passwd", "a/b.parquet", ".."])
    def test_a_manifest_names_files_of_its_own_directory_only(self, tmp_path: Path, name: str) -> None:
        Features.from_arrays(np.ones((3, 1, 1)), layers=["w"]).save(tmp_path / "out")
        manifest = tmp_path / "out" / "_manifest.json"
        content = read_sealed(manifest)
        content["shards"][0]["file"] = name
        write_sealed(manifest, content, tmp_path)
        with pytest.raises(CorruptError, match="wanted files of this directory only"):
            Features.load(tmp_path / "out")

    def test_a_progress_record_names_files_of_its_own_directory_only(self, tmp_path: Path) -> None:
        """A run that goes on neither reads nor writes elsewhere, whatever a record says."""
        from gradfast import FeatureExtractor

        class Net(torch.nn.Linear):
            left = 16

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                self.left -= len(x)
                if self.left < 0:
                    raise ZeroDivisionError
                return super().forward(x)

        x = torch.randn(24, 3)
        net = Net(3, 2).eval()
        files = {"rows_per_file": 8, "progress": False}
        with pytest.raises(ZeroDivisionError):
            FeatureExtractor(net, batch_size=8).extract(x, tmp_path / "out", **files)
        record = tmp_path / "out" / "_progress" / "part-00000.json"
        content = read_sealed(record)
        write_sealed(record, {**content, "file": "../elsewhere.parquet"}, tmp_path)
        (tmp_path / "elsewhere.parquet").write_bytes((tmp_path / "out" / "part-00000.parquet").read_bytes())
        net.left = 100
        f = FeatureExtractor(net, batch_size=8).extract(x, tmp_path / "out", **files)
        assert [part.path.parent for part in f._table.parts] == [tmp_path / "out"] * 3

    def test_an_archive_is_read_by_member_name_and_never_unpacked(self, tmp_path: Path) -> None:
        file = io.BytesIO()
        np.save(file, np.zeros((2, 4, 4), np.uint8))
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("../escaped.npy", file.getvalue())
            archive.writestr("x.npy", file.getvalue())
        assert len(open_images(tmp_path / "x.npz")) == 2
        assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npz"]
        assert not (tmp_path.parent / "escaped.npy").exists()


class TestBombs:
    """Small files that would decode to more pixels than Pillow's limit."""

    @pytest.fixture
    def bomb(self, monkeypatch: pytest.MonkeyPatch) -> bytes:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        file = io.BytesIO()
        Image.new("L", (64, 64)).save(file, "PNG")
        return file.getvalue()

    def test_in_a_folder(self, bomb: bytes, tmp_path: Path) -> None:
        (tmp_path / "bomb.png").write_bytes(bomb)
        with pytest.raises(ImageError, match=r"bomb\.png: refused, it could be a decompression bomb"):
            open_images(tmp_path)[0]

    def test_in_parquet(self, bomb: bytes, tmp_path: Path) -> None:
        pq.write_table(pa.table({"image": [bomb]}), tmp_path / "x.parquet")
        with pytest.raises(ImageError, match=r"x\.parquet, row 0: refused, it could be a decompression bomb"):
            open_images(tmp_path / "x.parquet")[0]

    def test_asked_for_its_quality(self, bomb: bytes) -> None:
        assert jpeg_quality(bomb) is None
