"""``python -m bench``: every benchmark within ten minutes, and RESULTS.md with its plots from what they found.

Each job is a pytest run in a process of its own, so that a peer that crashes or takes all memory costs only its own job. A job that
fails or does not fit into the time is named in RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import plots, results
from bench.models import TASKS
from bench.targets import TASK
from gradfast.bench import machine

HERE = Path(__file__).parent
STARTING = 5.0  # seconds that Python, torch and pytest take before a job begins


@dataclass(frozen=True)
class Job:
    """A pytest selection, the seconds for its rounds and for one call, and its share of the whole time."""

    name: str
    selection: tuple[str, ...]
    seconds: float
    longest: float
    share: float


def jobs() -> list[Job]:
    """The most wanted first: when time is short, the last ones are left out."""
    others = [name for name in TASKS if name != TASK]
    return [
        Job(TASK, (f"bench_engine.py::test_engine[{TASK}]",), 80, 6, 0.26),
        Job("profile", ("bench_profile.py",), 0, 0, 0.015),
        Job("memory", ("bench_memory.py",), 0, 0, 0.13),
        Job("kernels", ("bench_kernels.py",), 2, 0, 0.07),
        Job("scaling", ("bench_scaling.py",), 6, 0, 0.12),
        *(Job(name, (f"bench_engine.py::test_engine[{name}]",), 8, 1, 0.4 / len(others)) for name in others),
    ]


def run(
    chosen: list[Job], minutes: float, threads: int, log: Path
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """All records that the jobs left, and why some did not finish."""
    records: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    deadline = time.monotonic() + 60 * minutes
    scale = minutes / 10
    for i, job in enumerate(chosen):
        left = deadline - time.monotonic()
        # What earlier jobs did not use goes to the later ones, by their shares.
        limit = min(
            left, max(left * job.share / sum(j.share for j in chosen[i:]), 2 * 60 * minutes * job.share)
        )
        if limit < 2 * STARTING:
            failures[job.name] = "no time was left"
            continue
        print(f"{job.name} ...", end=" ", flush=True)
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            why = _pytest(job, scale, threads, Path(folder), limit, log)
            found = [
                json.loads(p.read_text(encoding="utf-8"))
                for p in sorted(Path(folder).glob("*.json"), key=lambda p: p.stat().st_mtime_ns)
            ]
        records += found
        if why:
            failures[job.name] = why
        print(f"{time.monotonic() - start:.0f} s{', ' + why if why else ''}", flush=True)
    return records, failures


def _pytest(job: Job, scale: float, threads: int, folder: Path, limit: float, log: Path) -> str | None:
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-disable-gc",
        *(str(HERE / part) for part in job.selection),
        f"--seconds={job.seconds * scale}", f"--longest={job.longest * scale}", f"--threads={threads}",
        f"--limit={limit - STARTING}", f"--records={folder}",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with log.open("a", encoding="utf-8") as out:
        try:
            done = subprocess.run(
                command,
                cwd=HERE.parent,
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"it took more than {limit:.0f} s"
    return None if done.returncode == 0 else f"pytest ended with {done.returncode}, see its output"


def write(found: dict[str, Any], folder: Path) -> None:
    """results.json, RESULTS.md and the plots."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for record in found["records"]:
        kinds.setdefault(record["kind"], []).append(record)
    (folder / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "RESULTS.md").write_text(results.render(found), encoding="utf-8")
    if "scaling" in kinds:
        plots.scaling(kinds["scaling"], folder / "scaling.svg")
    limits = results.best_limits(found["records"])
    if "kernel" in kinds and limits:
        plots.roofline(kinds["kernel"], limits, folder / "roofline.svg")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="for everything")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", metavar="JOB", help=f"of: {', '.join(j.name for j in jobs())}")
    parser.add_argument(
        "--out", type=Path, default=HERE, help="folder for RESULTS.md, results.json and the plots"
    )
    parser.add_argument(
        "--render", action="store_true", help="only write RESULTS.md again, from results.json"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.render:
        write(json.loads((args.out / "results.json").read_text(encoding="utf-8")), args.out)
        return
    chosen = [j for j in jobs() if not args.only or j.name in args.only]
    if not chosen:
        parser.error(f"--only: got {' '.join(args.only)}; wanted some of {', '.join(j.name for j in jobs())}")
    torch.set_num_threads(args.threads)
    log = Path(tempfile.mkstemp(prefix="gradfast-bench-", suffix=".log")[1])
    print(f"{len(chosen)} jobs, at most {args.minutes:g} minutes; their output: {log}")
    described, start = machine.describe(), time.monotonic()
    records, failures = run(chosen, args.minutes, args.threads, log)
    found = {
        "machine": described,
        "command": " ".join(["python -m bench", *sys.argv[1:]]),
        "seconds": time.monotonic() - start,
        "records": records,
        "failures": failures,
    }
    write(found, args.out)
    print(f"wrote {args.out / 'RESULTS.md'}")


if __name__ == "__main__":
    main()
