"""Which toolkit csrc/cuda is built with, and what is said of one that will not do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from build_support import cuda  # noqa: E402


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRADFAST_CUDA", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.setenv(name, "")  # so that what the code sets is undone, too
        monkeypatch.delenv(name)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", None)


def toolkit(
    folder: Path, version: str = "13.0", *, headers: bool = True, library: str = "libcudart.so"
) -> Path:
    (folder / "bin").mkdir(parents=True)
    nvcc = folder / "bin" / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {version}, V{version}.1'\n")
    nvcc.chmod(0o755)
    (folder / "include" / "crt").mkdir(parents=True)
    if headers:
        (folder / "include" / "cuda_runtime.h").touch()
        (folder / "include" / "crt" / "host_defines.h").touch()
    (folder / "lib64").mkdir()
    (folder / "lib64" / library).touch()
    return folder


def test_a_toolkit_that_fits_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "cuda")))
    found = cuda.toolkit()
    assert found == cuda.Toolkit(tmp_path / "cuda", "13.0", tmp_path / "cuda" / "lib64")
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == cuda.ARCHITECTURES
    assert dict(found.macros())["GRADFAST_CUDA_ARCHS"] == '"sm_80 sm_90a sm_100"'


def test_the_architectures_of_the_user_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "cuda")))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6 12.0+PTX")
    found = cuda.toolkit()
    assert found is not None
    assert dict(found.macros())["GRADFAST_CUDA_ARCHS"] == '"sm_86 sm_120"'


def test_a_runtime_library_with_a_version_in_its_name_gets_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = toolkit(tmp_path / "cuda", library="libcudart.so.13")
    monkeypatch.setattr(cuda, "__file__", str(tmp_path / "build_support" / "cuda.py"))
    monkeypatch.setenv("CUDA_HOME", str(home))
    found = cuda.toolkit()
    assert found is not None
    assert (found.libraries / "libcudart.so").resolve() == home / "lib64" / "libcudart.so.13"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: toolkit(p, "12.8"), "is CUDA 12.8"),
        (lambda p: toolkit(p, headers=False), "has no include/cuda_runtime.h"),
        (lambda p: toolkit(p, library="other.so"), "has no libcudart.so"),
        (lambda p: p, "has no bin/nvcc"),
    ],
    ids=["version", "headers", "library", "nothing"],
)
def test_a_toolkit_that_does_not_fit_is_named_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    make: object,
    said: str,
) -> None:
    assert callable(make)
    if said.endswith("libcudart.so"):
        monkeypatch.setattr(cuda.sysconfig, "get_paths", lambda: {"purelib": str(tmp_path)})
    monkeypatch.setenv("CUDA_HOME", str(make(tmp_path / "cuda")))
    assert cuda.toolkit() is None
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    monkeypatch.setenv("GRADFAST_CUDA", "1")
    with pytest.raises(SystemExit, match=said):
        cuda.toolkit()


def test_nvidias_packages_serve_before_what_is_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = toolkit(tmp_path / "nvidia" / "cu13", library="libcudart.so.13")
    monkeypatch.setattr(cuda.sysconfig, "get_paths", lambda: {"purelib": str(tmp_path)})
    monkeypatch.setattr(cuda, "__file__", str(tmp_path / "build_support" / "cuda.py"))
    other = toolkit(tmp_path / "other")
    monkeypatch.setenv("PATH", f"{other / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert cuda.fitting_toolkit().home == packaged


def test_a_toolkit_of_another_version_does_not_hide_one_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolkit(tmp_path / "nvidia" / "cu13", "13.5")
    monkeypatch.setattr(cuda.sysconfig, "get_paths", lambda: {"purelib": str(tmp_path)})
    fits = toolkit(tmp_path / "fits")
    monkeypatch.setenv("PATH", f"{fits / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert cuda.fitting_toolkit().home == fits


def test_the_command_names_the_toolkit_or_says_why_there_is_none(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build_support.cuda"]
    environment = {**os.environ, "CUDA_HOME": str(tmp_path)}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    of_cpu, of_cuda = "this torch is built for the CPU", f"{tmp_path} has no bin/nvcc"
    assert run.stderr.strip().splitlines()[-1] in (of_cpu, of_cuda)


def test_it_can_be_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "cuda")))
    monkeypatch.setenv("GRADFAST_CUDA", "0")
    assert cuda.toolkit() is None


def test_a_torch_for_the_cpu_builds_for_the_cpu_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert cuda.toolkit() is None
    assert capsys.readouterr().err == ""


def test_other_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADFAST_CUDA", "yes")
    with pytest.raises(SystemExit, match="GRADFAST_CUDA is 'yes'"):
        cuda.toolkit()
