"""What is handed out: the sdist's files, the version and the requirements of a wheel, builds in isolation, the locks."""

from __future__ import annotations

import email
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import venv
import zipfile
from collections.abc import Mapping
from email.message import Message
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gradfast import _C
from gradfast.detectors.persistence import FORMAT
from gradfast.gradcon.checkpoint import _FORMAT
from gradfast.store.layout import SCHEMA_VERSION
from gradfast.version import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
MINOR = ".".join(torch.__version__.split("+")[0].split(".")[:2])

sys.path.insert(0, str(ROOT))
from build_support import lock, version  # noqa: E402

sys.path.remove(str(ROOT))


def run(
    command: list[str], cwd: Path, extra: Mapping[str, str] | None = None, timeout: int = 300
) -> subprocess.CompletedProcess[str]:
    """Runs it with the CPU build asked for, and nothing of the caller's environments or pip in sight."""
    left_out = ("PYTHONPATH", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"GRADFAST_CUDA": "0", **(extra or {})}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=timeout
    )


def tracked() -> list[str]:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout: which files belong to it is not known")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(name for name in listing.stdout.split("\0") if name and (ROOT / name).exists())


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tracked files, with what a day's work leaves between them."""
    folder = tmp_path_factory.mktemp("checkout")
    strays = [
        "gradfast/_C.stray.so",
        "gradfast/__pycache__/norms.cpython-311.pyc",
        "csrc/cpu/conv.o",
        "tests/__pycache__/conftest.cpython-311-pytest.pyc",
        "build/temp/csrc/conv.o",
        "dist/old.tar.gz",
        ".venv/bin/python",
        ".hypothesis/examples/x",
        "features/manifest.json",
    ]
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    for name in strays:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("stray")
    return folder


# What pip's isolation does: the environment's packages are gone, those that the build asks for are there.
ISOLATED = """
import os, sys, sysconfig
overlay, checkout = sys.argv[1:3]
hidden = {os.path.realpath(sysconfig.get_paths()[name]) for name in ("purelib", "platlib")}
sys.path[:] = [checkout, overlay] + [p for p in sys.path if p and os.path.realpath(p) not in hidden]
sys.meta_path[:] = [f for f in sys.meta_path if "Editable" not in getattr(f, "__name__", "")]
"""


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of [build-system] requires, and nothing else."""
    folder = tmp_path_factory.mktemp("overlay")
    for name in ("setuptools", "wheel", "ninja"):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}:
            if not top.endswith(".pth") and top != "__pycache__":
                (folder / top).symlink_to(Path(str(distribution.locate_file(top))))
    return folder


def isolated(code: str, overlay: Path, checkout: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    return run(
        [sys.executable, "-c", ISOLATED + textwrap.dedent(code), str(overlay), str(checkout)], checkout, extra
    )


def metadata(text: str) -> Message:
    return email.message_from_string(text)


def requirements(of: Message, extra: str = "") -> list[Requirement]:
    """Those that hold for Python 3.11 with this extra ("": without any)."""
    everything = [Requirement(line) for line in of.get_all("Requires-Dist", [])]
    where = {"python_version": "3.11", "extra": extra}
    return [wanted for wanted in everything if wanted.marker is None or wanted.marker.evaluate(where)]


@pytest.fixture(scope="module")
def sdist(checkout: Path, overlay: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made where there is no torch at all."""
    folder = tmp_path_factory.mktemp("sdist")
    made = isolated(
        f"""
        from build_support import backend
        assert backend.get_requires_for_build_sdist() == []
        backend.build_sdist({str(folder)!r})
        assert "torch" not in sys.modules
        """,
        overlay,
        checkout,
    )
    assert made.returncode == 0, made.stderr
    return folder / f"gradfast-{__version__}.tar.gz"


class TestSdist:
    def test_holds_what_is_tracked_and_nothing_else(self, sdist: Path) -> None:
        with tarfile.open(sdist) as archive:
            names = [member.name.split("/", 1)[1] for member in archive if member.isfile()]
        made = {"PKG-INFO", "setup.cfg"}
        found = {name for name in names if name not in made and not name.startswith("gradfast.egg-info/")}
        assert found == set(tracked()) - {".ci/run", ".gitignore"}
        assert {name for name in found if name.startswith("csrc/")} > {
            "csrc/bind.cpp",
            "csrc/cuda/kernels/direct.cu",
        }

    def test_version_names_no_torch_and_takes_any(self, sdist: Path) -> None:
        with tarfile.open(sdist) as archive:
            member = archive.extractfile(f"gradfast-{__version__}/PKG-INFO")
            assert member is not None
            found = metadata(member.read().decode())
        assert found["Version"] == __version__
        assert "torch>=2.6" in [str(wanted) for wanted in requirements(found)]
        # A resolver that trusted the sdist's requirements would miss the pin of the wheel made from it.
        assert "requires-dist" in [name.lower() for name in found.get_all("Dynamic", [])]

    def test_pip_takes_what_is_built_from_it_for_the_version_asked_for(
        self, sdist: Path, tmp_path: Path
    ) -> None:
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--dry-run",
            "--ignore-installed",
            "--no-deps",
            "--no-index",
        ]
        command += ["--no-build-isolation", "--find-links", str(sdist.parent), f"gradfast=={__version__}"]
        found = run(command, tmp_path)
        assert found.returncode == 0, found.stdout + found.stderr
        assert f"Would install gradfast-{__version__}\n" in found.stdout


class TestWheelVersion:
    @pytest.mark.parametrize(
        ("torch_version", "cuda", "local"),
        [
            ("2.14.1+cu130", "13.0", "torch2.14.cu130"),
            ("2.14.1+cu130", None, "torch2.14.cpu"),
            ("2.6.0+cpu", None, "torch2.6.cpu"),
            ("2.6.0", "12.4", "torch2.6.cu124"),
            ("2.15.0.dev20261101+cu131", "13.1", "torch2.15.cu131"),
        ],
    )
    def test_names_torch_and_cuda(self, torch_version: str, cuda: str | None, local: str) -> None:
        if (ROOT / "PKG-INFO").exists():
            pytest.skip("an unpacked sdist, whose wheels bear its own version")
        assert version.of_wheel(torch_version, cuda) == f"{__version__}+{local}"

    def test_is_that_of_the_sdist_it_is_made_from(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "gradfast").mkdir()
        (tmp_path / "gradfast" / "version.py").write_text('__version__ = "1.2.3"\n')
        monkeypatch.setattr(version, "ROOT", tmp_path)
        assert version.of_wheel("2.14.1", None) == "1.2.3+torch2.14.cpu"
        (tmp_path / "PKG-INFO").touch()
        assert version.of_wheel("2.14.1", None) == "1.2.3"


class TestIsolation:
    PREPARE = """
        from build_support import backend
        assert backend.get_requires_for_build_wheel() == []
        folder = backend.prepare_metadata_for_build_wheel(".")
        import torch
        print("torch:", torch.__file__)
        print(open(os.path.join(folder, "METADATA")).read())
        """

    def test_builds_for_the_torch_of_the_environment(self, checkout: Path, overlay: Path) -> None:
        made = isolated(self.PREPARE, overlay, checkout)
        assert made.returncode == 0, made.stderr
        assert f"torch: {torch.__file__}" in made.stdout
        assert "gradfast: isolated build, compiled against the torch in" in made.stderr
        found = metadata(made.stdout[made.stdout.index("Metadata-Version") :])
        assert found["Version"] == f"{__version__}+torch{MINOR}.cpu"
        assert f"torch=={MINOR}.*" in [str(wanted) for wanted in requirements(found)]
        assert found["Requires-Python"] == ">=3.10"
        assert found["License-Expression"] == "BSD-3-Clause"

    NO_TORCH = """
        empty = os.path.join(overlay, "nothing")
        os.makedirs(empty, exist_ok=True)
        true_paths = sysconfig.get_paths
        sysconfig.get_paths = lambda *a, **k: {**true_paths(*a, **k), "purelib": empty, "platlib": empty}
        """

    def test_without_torch_is_one_line(self, checkout: Path, overlay: Path) -> None:
        for hook in (
            "get_requires_for_build_wheel()",
            "build_wheel('.')",
            "get_requires_for_build_editable()",
        ):
            code = textwrap.dedent(self.NO_TORCH) + f"from build_support import backend\nbackend.{hook}"
            made = isolated(code, overlay, checkout)
            assert made.returncode == 1
            line = made.stderr.strip()
            assert line.startswith("gradfast: no torch for the build to see (looked in "), made.stderr
            assert "\n" not in line
            assert "pip install 'torch>=2.6' first" in line
            assert "--no-build-isolation" in line

    def test_an_environment_of_the_front_end_sees_the_activated_one(
        self, checkout: Path, overlay: Path, tmp_path: Path
    ) -> None:
        python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        stub = tmp_path / "lib" / python / "site-packages" / "torch"
        stub.mkdir(parents=True)
        (stub / "version.py").touch()
        (stub / "__init__.py").write_text("__version__ = '2.5.1'")
        code = textwrap.dedent(self.NO_TORCH) + textwrap.dedent(self.PREPARE)
        made = isolated(code, overlay, checkout, VIRTUAL_ENV=str(tmp_path))
        assert f"compiled against the torch in {stub.parent}" in made.stderr
        assert made.stderr.splitlines()[-1] == "gradfast: torch 2.5.1 is too old: pip install 'torch>=2.6'"


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


class TestLocks:
    def pins(self, name: str) -> dict[str, str]:
        lines = (ROOT / "requirements" / f"{name}.lock").read_text().splitlines()
        wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
        found = {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in wanted}
        assert len(found) == len(wanted)
        assert all(re.fullmatch(r"==[\w.]+", str(one.specifier)) for one in wanted)
        return found

    def test_dev_lock_fits_every_requirement(self, sdist: Path) -> None:
        with tarfile.open(sdist) as archive:
            member = archive.extractfile(f"gradfast-{__version__}/PKG-INFO")
            assert member is not None
            of = metadata(member.read().decode())
        pins = self.pins("dev")
        extras = of.get_all("Provides-Extra", [])
        assert {"dev", "test", "bench", "report"} <= set(extras)
        for extra in ["", *extras]:
            for wanted in requirements(of, extra):
                name = canonicalize_name(wanted.name)
                if name != "gradfast":
                    assert name in pins, f"{wanted} of [{extra}] is not in requirements/dev.lock: make lock"
                    assert wanted.specifier.contains(pins[name]), f"{wanted}: locked at {pins[name]}"

    def test_docs_lock_holds_what_make_docs_installs(self) -> None:
        command = re.search(r"pip install .*(\"mkdocs-.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert command
        pins = self.pins("docs")
        for text in re.findall(r'"([^"]+)"', command[1]):
            wanted = Requirement(text)
            assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)])

    def test_lock_names_no_place(self) -> None:
        frozen = "# Editable\n-e /somewhere\nzlib==1\nTorch==2.14.1\ngradfast==0.1.0\n"
        assert lock.lines(frozen) == ["Torch==2.14.1", "zlib==1"]
        with pytest.raises(SystemExit, match=r"installed from a place.*torch @ file:///x"):
            lock.lines("torch @ file:///x/torch.whl")


def test_pythons_are_named_alike_everywhere(project: dict) -> None:
    prefix = "Programming Language :: Python :: 3."
    minors = [
        int(line.removeprefix(prefix))
        for line in project["project"]["classifiers"]
        if line.startswith(prefix)
    ]
    assert project["project"]["requires-python"] == f">=3.{min(minors)}"
    assert project["tool"]["cibuildwheel"]["build"].split() == [f"cp3{minor}-*" for minor in minors]
    assert f"Python 3.{min(minors)} to 3.{max(minors)}" in (ROOT / "README.md").read_text()
    assert f"Python 3.{min(minors)} to 3.{max(minors)}" in (ROOT / "docs" / "versions.md").read_text()


def test_versions_page_and_changelog_are_current() -> None:
    page = (ROOT / "docs" / "versions.md").read_text()
    rows = {
        row.split("|")[1].split("(")[0].strip(): row.split("|")[4].strip()
        for row in page.splitlines()
        if row.count("|") == 5
    }
    assert rows["features"] == str(SCHEMA_VERSION)
    assert rows["detectors"] == str(FORMAT)
    assert rows["GradCON checkpoints"] == f"`{_FORMAT}`"
    assert f"`{__version__}` (sdist)" in page
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:])


@pytest.mark.slow
def test_wheel_built_in_isolation_runs_in_a_clean_environment(checkout: Path, tmp_path: Path) -> None:
    """`pip wheel .`, compiled for the CPU, then installed beside torch and used. Needs the package index."""
    built = run(
        [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "-w", str(tmp_path), "."],
        checkout,
        timeout=3600,
    )
    assert built.returncode == 0, built.stdout[-5000:] + built.stderr[-5000:]
    [wheel] = tmp_path.glob("*.whl")
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert wheel.name.startswith(f"gradfast-{__version__}+torch{MINOR}.cpu-{tag}-{tag}-linux_")

    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    [binary] = [
        name
        for name in names
        if name.startswith("gradfast/_C.") and name.endswith(".so") and "stray" not in name
    ]
    assert names - {binary} == {name for name in tracked() if name.startswith("gradfast/")}

    clean = tmp_path / "clean"
    venv.create(clean, symlinks=True)
    python = str(clean / "bin" / "python")
    installed = run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", str(wheel)],
        tmp_path,
    )
    assert installed.returncode == 0, installed.stderr
    # torch and the like from here, behind the clean environment's own packages; an editable gradfast's hook stays out.
    [site] = (clean / "lib").glob("python*/site-packages")
    (site / "torch.pth").write_text(f"{Path(torch.__file__).parent.parent}\n")

    told = run([str(clean / "bin" / "gradfast"), "info", "--json"], tmp_path)
    assert told.returncode == 0, told.stderr
    info = json.loads(told.stdout)
    assert info["versions"]["distribution"] == f"{__version__}+torch{MINOR}.cpu"
    assert info["build"]["torch"] == _C.build_info()["torch"]
    assert info["build"]["cuda"] is None

    used = run(
        [
            python,
            "-I",
            "-c",
            textwrap.dedent("""
                import gradfast, torch
                from gradfast import reference
                torch.manual_seed(0)
                model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 5))
                model, x = model.double().eval(), torch.randn(2, 3, 8, 8).double()
                torch.testing.assert_close(gradfast.grad_norms(model, x).values, reference.grad_norms(model, x).values)
                print(gradfast.__file__)
            """),
        ],
        tmp_path,
    )
    assert used.returncode == 0, used.stderr
    assert Path(used.stdout.strip()).is_relative_to(clean)

    refused = run(
        [python, "-I", "-c", "import torch; torch.__version__ = '2.99.0'; import gradfast"], tmp_path
    )
    assert refused.returncode == 1
    assert "but torch 2.99.0 is installed" in refused.stderr.splitlines()[-1]
