"""The build says in one line what is missing, and the package says in one line why it does not load."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from rich.console import Console

from gradfast import _C, _extension, info

ROOT = Path(__file__).resolve().parent.parent


def python(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def the_line(run: subprocess.CompletedProcess[str]) -> str:
    """The one line that a failed build gives."""
    assert run.returncode == 1, run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    lines = [line for line in run.stderr.splitlines() if line.startswith("gradfast: ")]
    assert len(lines) == 1, run.stderr
    assert run.stderr.splitlines()[-1] == lines[0]
    return lines[0]


def executable(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def fake_torch(tmp_path: Path):
    def make(source: str) -> str:
        package = tmp_path / "stub" / "torch"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(source)
        return str(package.parent)

    return make


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("raise ModuleNotFoundError('torch')", "pip install 'torch>=2.6' first"),
        ("__version__ = '2.5.1+cpu'", "torch 2.5.1+cpu is too old: pip install 'torch>=2.6'"),
        (
            "raise ImportError('libcudart.so.12: cannot open')",
            "does not import (libcudart.so.12: cannot open)",
        ),
    ],
    ids=["missing", "too old", "broken"],
)
def test_torch_is_checked_first(fake_torch, source: str, wanted: str) -> None:
    assert wanted in the_line(python("setup.py", "build_ext", PYTHONPATH=fake_torch(source)))


def test_build_isolation_with_another_torch_is_refused(fake_torch) -> None:
    stub = fake_torch("__version__ = '2.99.0'")
    line = the_line(python("setup.py", "egg_info", PYTHONPATH=stub))
    assert "torch 2.99.0" in line
    assert torch.__version__.split("+")[0] in line
    assert "--no-build-isolation" in line


def build(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    arguments = ["--build-temp", str(tmp_path / "temp"), "--build-lib", str(tmp_path / "lib")]
    return python("setup.py", "build_ext", *arguments, **environment)


def test_missing_compiler(tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    environment = {"PATH": str(empty), "CXX": "no-such-compiler"}
    assert "no C++ compiler (no-such-compiler): apt-get install g++" in the_line(
        build(tmp_path, **environment)
    )


def test_compiler_that_is_too_old(tmp_path: Path) -> None:
    old = executable(tmp_path / "c++", "echo 'unrecognized command-line option' >&2; exit 1")
    line = the_line(build(tmp_path, CXX=str(old)))
    assert "does not compile with -std=c++" in line
    assert "install GCC" in line


def test_missing_ninja(tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    # The scripts folder of this environment has a ninja: hide it.
    run = python(
        "-c",
        textwrap.dedent("""
            import runpy, sys, sysconfig
            true_path = sysconfig.get_path
            sysconfig.get_path = lambda name, *a: "/nowhere" if name == "scripts" else true_path(name, *a)
            sys.argv = ["setup.py", "build_ext"]
            runpy.run_path("setup.py", run_name="__main__")
        """),
        PATH=str(empty),
    )
    assert the_line(run) == "gradfast: ninja is not installed: pip install ninja"


def test_failed_compilation_is_one_line_and_max_jobs_is_honoured(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    log = tmp_path / "ninja.log"
    executable(
        folder / "ninja",
        f'[ "$1" = --version ] && echo 1.11 && exit 0\necho "$@" >> {log}\necho "x.cpp:1: error: boom"; exit 1',
    )
    run = build(tmp_path, PATH=f"{folder}{os.pathsep}{os.environ['PATH']}", MAX_JOBS="1")
    assert "the C++ build failed: see the first compiler error above" in the_line(run)
    assert "x.cpp:1: error: boom" in run.stdout + run.stderr
    assert "-j 1" in log.read_text()


# An editable install finds gradfast._C wherever the package itself came from.
IMPORT_COPY = (
    "import sys; sys.meta_path = [f for f in sys.meta_path if 'Editable' not in getattr(f, '__name__', '')]; "
    "import gradfast"
)


@pytest.fixture
def package_copy(tmp_path: Path) -> Path:
    """A copy of the package without its extension; returns the folder to run Python in."""
    shutil.copytree(
        ROOT / "gradfast", tmp_path / "gradfast", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    return tmp_path


def import_error(run: subprocess.CompletedProcess[str]) -> str:
    assert run.returncode == 1, run.stdout
    return run.stderr.splitlines()[-1]


def test_import_without_the_extension(package_copy: Path) -> None:
    error = import_error(python("-c", IMPORT_COPY, cwd=package_copy, PYTHONPATH=str(package_copy)))
    assert error.startswith(
        "ImportError: gradfast's extension is not built: pip install --no-build-isolation"
    )


def test_import_of_an_extension_that_no_longer_loads(package_copy: Path) -> None:
    binary = package_copy / "gradfast" / Path(_C.__file__).name
    binary.write_bytes(b"not ELF, but with its marker: gradfast-built-for-torch=2.99.1\0")
    error = import_error(python("-c", IMPORT_COPY, cwd=package_copy, PYTHONPATH=str(package_copy)))
    assert "gradfast was built for torch 2.99.1, but torch" in error
    assert "pip install --no-build-isolation" in error


def test_an_extension_older_than_its_python_files() -> None:
    _extension.check(("linear_sqnorm",))
    with pytest.raises(
        ImportError, match=r"older than its Python files \(it has no brand_new\): pip install"
    ):
        _extension.check(("linear_sqnorm", "brand_new"))


def test_commands_say_in_one_line_that_the_extension_is_not_built(package_copy: Path) -> None:
    command = "; from gradfast.cli import main; main()"
    start = IMPORT_COPY.replace("import gradfast", "sys.argv = ['gradfast', 'study', 'ood']; import gradfast")
    run = python("-c", start + command, cwd=package_copy, PYTHONPATH=str(package_copy))
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert line.startswith("gradfast: error: gradfast's extension is not built: pip install")


def test_import_beside_another_torch() -> None:
    error = import_error(python("-c", "import torch; torch.__version__ = '2.99.0'; import gradfast"))
    assert f"built for torch {_C.build_info()['torch']}, but torch 2.99.0 is installed" in error


CUDA = "13.0" if torch.version.cuda != "13.0" else "12.8"


def test_import_of_an_extension_for_another_cuda(package_copy: Path) -> None:
    binary = package_copy / "gradfast" / Path(_C.__file__).name
    same_torch = f"gradfast-built-for-torch={_C.build_info()['torch']}\0"
    binary.write_bytes(f"not ELF\0{same_torch}gradfast-built-for-cuda={CUDA}\0".encode())
    error = import_error(python("-c", IMPORT_COPY, cwd=package_copy, PYTHONPATH=str(package_copy)))
    assert f"gradfast was built for CUDA {CUDA}, but torch {torch.__version__} has " in error
    # Kernels for the CPU alone are no reason: then the loader's own words are the news.
    binary.write_bytes(f"not ELF\0{same_torch}gradfast-built-for-cuda=\0".encode())
    error = import_error(python("-c", IMPORT_COPY, cwd=package_copy, PYTHONPATH=str(package_copy)))
    assert "gradfast's extension does not load (" in error


@pytest.mark.parametrize(
    ("built", "installed", "said"),
    [
        ("13.0", "12.8", "built for CUDA 13.0, but torch {} has CUDA 12.8"),
        ("13.0", None, "built for CUDA 13.0, but torch {} has no CUDA"),
        ("12.4", "12.8", None),
        ("", "13.0", None),
        ("", None, None),
    ],
)
def test_cuda_of_the_same_major_version_will_do(
    monkeypatch: pytest.MonkeyPatch, built: str, installed: str | None, said: str | None
) -> None:
    monkeypatch.setattr(torch.version, "cuda", installed)
    found = _extension._unfit(torch.__version__, built)
    if said is None:
        assert found is None
    else:
        assert found is not None
        assert said.format(torch.__version__) in found


def test_unknown_public_name() -> None:
    import gradfast

    with pytest.raises(AttributeError, match="no attribute 'grad_norm'"):
        gradfast.grad_norm  # noqa: B018
    assert set(gradfast.__all__) <= set(dir(gradfast))
    for name in gradfast.__all__:
        assert getattr(gradfast, name) is not None


def test_info_is_plain_and_true() -> None:
    collected = info.collect()
    assert json.loads(json.dumps(collected)) == collected
    assert collected["versions"]["torch"] == torch.__version__
    assert torch.__version__.startswith(collected["build"]["torch"])
    assert collected["runtime"]["isa"] in collected["build"]["isas"]
    assert bool(collected["build"]["cuda_archs"]) == bool(collected["build"]["cuda"])
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(info.render(collected))
    text = console.export_text()
    for part in (torch.__version__, collected["build"]["compiler"], "instruction set", "CUDA kernels"):
        assert part in text


@pytest.mark.parametrize(
    ("archs", "capabilities", "said"),
    [
        ([], [(9, 0)], "not built"),
        (["sm_80", "sm_90a"], [], "built, idle: no GPU here"),
        (["sm_80", "sm_90a"], [], "never yet run on a GPU"),
        (["sm_80", "sm_90a", "sm_100"], [(9, 0)], "in use for CUDA tensors"),
        (["sm_80", "sm_90a"], [(7, 5), (8, 0)], "none for sm_75: built for sm_80 sm_90a"),
    ],
)
def test_info_says_what_is_known_of_the_cuda_kernels(
    archs: list[str], capabilities: list[tuple[int, int]], said: str
) -> None:
    assert said in info._cuda_kernels(archs, capabilities)


@pytest.mark.parametrize("isa", _C.build_info()["isas"])
def test_instruction_set_can_be_lowered(isa: str) -> None:
    run = python("-c", "from gradfast import _C; print(_C.cpu_isa())", GRADFAST_CPU_ISA=isa)
    order = _C.build_info()["isas"]
    assert order.index(run.stdout.strip()) <= order.index(isa)
    if isa == "baseline":
        assert run.stdout.strip() == "baseline"


def _objects() -> list[Path]:
    return sorted(ROOT.glob("build/temp.*/*/csrc/cpu/simd/*.o"))


@pytest.mark.skipif(
    not _objects(), reason="the extension was not built in this checkout: no object files to read"
)
def test_simd_objects_share_no_inline_function() -> None:
    """An inline function compiled with AVX-512 could be the copy that the linker keeps for all of the library.

    So whatever these objects define for others must lie in the namespace of their own instruction set.
    """
    for path in _objects():
        isa = path.relative_to(ROOT / "build").parts[1]
        listing = subprocess.run(
            ["nm", "-C", "--defined-only", "--extern-only", path], capture_output=True, text=True, check=True
        ).stdout
        names = [line.split(maxsplit=2)[2] for line in listing.splitlines()]
        assert names, path
        foreign = [name for name in names if f"gradfast::cpu::{isa}::" not in name]
        assert not foreign, f"{path.name} for {isa}: {foreign}"
