"""What bench/gpu.sh does on a machine without a GPU: its limits, its words, and that a failing part stops nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.gpu import run  # noqa: E402


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_limits_leave_time_within_ten_minutes(tmp_path: Path, device: str) -> None:
    parts = run.parts(tmp_path, device, "9.0")
    assert {"build", "operators", "tests", "kernels", "engines"} <= {p.name for p in parts}
    assert sum(p.seconds for p in parts) <= 595
    for part in parts:
        for argument in part.command:
            assert not argument.startswith("tests/") or (ROOT / argument).exists(), argument


def test_a_gpu_builds_for_itself_alone(tmp_path: Path) -> None:
    build = run.parts(tmp_path, "cuda", "9.0")[0]
    assert build.environment == {"GRADFAST_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "9.0"}


def test_a_part_that_fails_or_hangs_is_told_and_keeps_what_it_wrote(tmp_path: Path) -> None:
    target = tmp_path / "part.json"
    script = f"import pathlib; pathlib.Path({str(target)!r}).write_text('[1]'); print('so far'); raise SystemExit(3)"
    told = run.run(run.Part("fails", [sys.executable, "-c", script], 20, writes=target), tmp_path)
    assert (told["status"], told["results"], told["last_lines"]) == ("exit 3", [1], ["so far"])
    told = run.run(run.Part("hangs", [sys.executable, "-c", "import time; time.sleep(60)"], 1), tmp_path)
    assert told["status"] == "stopped after 1 s"
    assert run.run(run.Part("is not there", ["/no/such/tool"], 5), tmp_path)["status"].startswith(
        "did not start"
    )


@pytest.mark.parametrize(("skipped", "status"), [(False, "ok"), (True, "ran no test")])
def test_tests_that_were_all_skipped_are_not_ok(tmp_path: Path, skipped: bool, status: str) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(f"import pytest\n@pytest.mark.skipif({skipped}, reason='no GPU')\ndef test_it(): pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    assert run.run(run.Part("tests", command, 60), tmp_path)["status"] == status


def test_what_a_part_has_started_ends_with_its_time(tmp_path: Path) -> None:
    """A compiler or a worker that went on would slow down what is measured next."""
    beat = tmp_path / "beat"
    child = f"import pathlib, time\nwhile True: pathlib.Path({str(beat)!r}).write_text(str(time.time())); time.sleep(0.05)"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    told = run.run(run.Part("hangs", [sys.executable, "-c", script], 3), tmp_path)
    assert told["status"] == "stopped after 3 s"
    assert beat.exists()
    last = beat.read_text()
    time.sleep(0.5)
    assert beat.read_text() == last


def test_with_no_gpu_every_part_is_told_to_have_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All parts fail, as on a machine whose driver does not work: each is in the results, and the exit status says so."""
    broken = [
        run.Part(p.name, [sys.executable, "-c", "raise SystemExit(1)"], 20)
        for p in run.parts(tmp_path, "cuda", "9.0")
    ]
    monkeypatch.setattr(run, "parts", lambda *_: broken)
    monkeypatch.setattr(
        run, "machine", lambda device: {"device": device, "name": "broken", "capability": "9.0"}
    )
    monkeypatch.setattr(sys, "argv", ["run", "--out", str(tmp_path)])
    assert run.main() == 1
    results = json.loads((tmp_path / "results.json").read_text())
    assert [p["status"] for p in results["parts"]] == ["exit 1"] * len(broken)
    assert "exit 1" in (tmp_path / "index.html").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.gpu.run", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == "gpu.sh: no GPU that torch sees: nothing was run\n"
    assert "no GPU" in json.loads((tmp_path / "results.json").read_text())["error"]
