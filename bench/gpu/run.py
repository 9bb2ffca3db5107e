"""Runs the parts of bench/gpu.sh one after another, each in a process and a time of its own, and gathers their results."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[2]
SANITIZER_TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")


@dataclass(frozen=True)
class Part:
    """A command, what it may take, and the JSON file that it writes, if any."""

    name: str
    command: list[str]
    seconds: int
    writes: Path | None = None
    environment: dict[str, str] | None = None


def parts(out: Path, device: str, architecture: str | None) -> list[Part]:
    """The parts in order; their limits sum to less than ten minutes."""
    python = sys.executable
    cuda = device == "cuda"
    build = {"GRADFAST_CUDA": "1" if cuda else "0"}
    if architecture:
        build["TORCH_CUDA_ARCH_LIST"] = architecture
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    if importlib.util.find_spec("xdist"):
        pytest += ["-n", "4"]
    quick = [*pytest, "-m", "not slow"]
    # The operators' samples and the engine on the models of the zoo; the other tests ask nothing of a GPU, and would take the time.
    whole = (
        [*pytest, "-m", "cuda and not slow", "tests/ops", "tests/test_gpu.py"]
        if cuda
        else [*quick, "tests/ops"]
    )
    found = [
        Part("build", [python, "setup.py", "-q", "build_ext", "--inplace"], 150, environment=build),
        Part(
            "operators",
            [*quick, "tests/cuda_on_cpu/test_weight_gradients.py", "tests/cuda_on_cpu/test_channels.py",
             *([] if cuda else ["-k", "test_linear or test_embedding"])],
            80,
            environment={"GRADFAST_TEST_DEVICE": device if cuda else "emulator"},
        ),
        Part("tests", whole, 90),
    ]  # fmt: skip
    sanitizer = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin"
    )
    for tool in SANITIZER_TOOLS:
        listed = [python, "-m", "bench.gpu.short_list", "--device", device]
        command = [sanitizer or "compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *listed]
        found.append(Part(f"sanitizer {tool}", command if cuda else listed, 25))
    for name, seconds in (("kernels", 70), ("engines", 100)):
        target = out / f"{name}.json"
        command = [python, "-m", f"bench.gpu.{name}", "--device", device, "--out", str(target)]
        found.append(Part(name, command, seconds, writes=target))
    return found


def _call(part: Part, stream: TextIO) -> int | None:
    """The exit status, or None where the time was up: then all that the part has started ends, lest it disturb what is measured next."""
    process = subprocess.Popen(
        part.command,
        cwd=ROOT,
        env=os.environ | (part.environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=stream,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return process.wait(part.seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(part: Part, out: Path) -> dict[str, Any]:
    """Runs one part; whatever happens is told in its result."""
    log = out / f"{part.name.replace(' ', '-')}.log"
    start = time.perf_counter()
    result: dict[str, Any] = {"part": part.name, "status": "ok"}
    with log.open("w") as stream:
        try:
            code = _call(part, stream)
            if code is None:
                result["status"] = f"stopped after {part.seconds} s"
            elif code != 0:
                result["status"] = f"exit {code}"
        except OSError as error:
            result["status"] = f"did not start: {error}"
    result["seconds"] = round(time.perf_counter() - start, 1)
    result["last_lines"] = log.read_text(errors="replace").splitlines()[-5:]
    if (
        result["status"] == "ok"
        and "pytest" in part.command
        and " passed" not in str(result["last_lines"][-1:])
    ):
        result["status"] = "ran no test"  # all were skipped: the GPU is not seen
    if part.writes and part.writes.exists():  # a part that fails midway has written what it had
        result["results"] = json.loads(part.writes.read_text())
    return result


def machine(device: str) -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "device": device,
    }
    if device == "cuda" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory": properties.total_memory,
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for results.json, index.html and the logs"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", nargs="*", help="names of the parts to run")
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": machine(arguments.device), "parts": []}
    if arguments.device == "cuda" and "name" not in results["machine"]:
        results["error"] = "no GPU that torch sees: nothing was run"
        (out / "results.json").write_text(json.dumps(results, indent=1))
        print(f"gpu.sh: {results['error']}")
        return 1
    for part in parts(out, arguments.device, results["machine"].get("capability")):
        if arguments.only and part.name not in arguments.only:
            continue
        result = run(part, out)
        print(f"{result['part']:<20} {result['status']:<24} {result['seconds']:>6.1f} s", flush=True)
        results["parts"].append(result)
        (out / "results.json").write_text(
            json.dumps(results, indent=1)
        )  # what there is, should the machine go away
    try:
        from . import page

        page.write(results, out / "index.html")
        print(f"wrote {out / 'index.html'}")
    except Exception as error:  # the numbers are there without the plots
        print(f"no plots: {error}")
    print(f"wrote {out / 'results.json'}")
    return int(any(p["status"] != "ok" for p in results["parts"]))


if __name__ == "__main__":
    sys.exit(main())
