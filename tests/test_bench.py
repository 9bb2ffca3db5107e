"""The comparison that `gradfast bench` and bench/ are made of. No test looks at how long anything took."""

from __future__ import annotations

import importlib
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from gradfast.bench import Contender, Prepared, Race, Result, Task, contenders, libraries
from gradfast.bench.command import Settings, task_of
from gradfast.bench.memory import peak_bytes
from gradfast.bench.race import deviation
from gradfast.bench.table import race_table
from gradfast.cli.app import app

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> str:
    """The project's bench/ package, importable."""
    monkeypatch.syspath_prepend(str(ROOT))
    return "bench"


def tiny_task(batch: int = 3, classes: int = 4) -> Task:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 5),
    )
    return Task("tiny", model.eval(), torch.randn(batch, 2, 6, 6), torch.arange(classes))


def simple(name: str, run: object, **options: object) -> Contender:
    return Contender(name, name, "", lambda model: Prepared(model, run), **options)


def test_every_way_of_torch_runs_and_agrees_with_autograd():
    race = Race(tiny_task(), contenders())
    race.run(0, (2, 2))
    assert {r.contender.name: r.error for r in race.results if r.error} == {}
    for result in race.results:
        assert len(result.seconds) == 2
        assert result.samples == 3
        assert result.rows == (1 if result.contender.contrast == "all-ones" else 4)
        if result.contender.gives == "norms":
            assert result.layers == 5
    assert race["gradfast"].deviation < 1e-4
    assert race["loop"].deviation < 1e-4


@pytest.mark.parametrize(
    ("name", "module"), [("backpack", "backpack"), ("opacus", "opacus"), ("torchjd", "torchjd")]
)
def test_libraries_agree_with_autograd(name: str, module: str):
    pytest.importorskip(module)
    contender = next(c for c in libraries() if c.name == name)
    race = Race(tiny_task(), [contender])
    race.run(0, (1, 1))
    assert race[name].error is None
    assert race[name].deviation < 1e-3
    # Opacus' model has no BatchNorm; TorchJD gives one number for all parameters.
    assert race[name].layers == {"backpack": 5, "opacus": 3, "torchjd": None}[name]


def test_a_failure_costs_only_its_own_contender():
    calls = []

    def later(x: Tensor, classes: Tensor) -> None:
        calls.append(len(x))
        if len(calls) > 3:
            raise RuntimeError("out of luck\nin detail")

    def at_once(model: nn.Module) -> Prepared:
        raise ImportError("No module named 'peer'")

    race = Race(
        tiny_task(),
        [
            Contender("absent", "absent", "", at_once),
            simple("later", later, gives="nothing"),
            next(c for c in contenders() if c.name == "gradfast"),
        ],
    )
    race.run(0, (3, 3))
    assert race["absent"].error == "ImportError: No module named 'peer'"
    assert race["later"].error == "RuntimeError: out of luck"
    assert len(race["gradfast"].seconds) == 3
    assert race["absent"].per_row is None
    assert "absent" in json.dumps(race.as_dict())


def test_wrong_norms_are_not_timed():
    def wrong(x: Tensor, classes: Tensor) -> Tensor:
        return torch.ones(len(x), len(classes), 5)

    def wrong_shape(x: Tensor, classes: Tensor) -> Tensor:
        return torch.ones(len(x), len(classes))

    race = Race(tiny_task(), [simple("wrong", wrong), simple("shape", wrong_shape)])
    race.run(0)
    assert race["wrong"].error.startswith("WrongNumbersError: wrong is off by")
    assert "(1, 2); wanted (1, 2, 5)" in race["shape"].error
    assert race["wrong"].seconds == race["shape"].seconds == []


def test_a_slow_contender_gets_fewer_samples_and_classes():
    seen = []

    def run(x: Tensor, classes: Tensor) -> None:
        seen.append((len(x), len(classes)))

    alone = simple("alone", run, gives="nothing", class_by_class=True)
    race = Race(tiny_task(3, 5), [alone, simple("together", run, gives="nothing")], longest=1e-12)
    race.run(0, (1, 1))
    assert (race["alone"].samples, race["alone"].rows) == (1, 2)
    assert (race["together"].samples, race["together"].rows) == (1, 5)
    assert {seen[-1], seen[-2]} == {(1, 2), (1, 5)}
    roomy = Race(tiny_task(3, 5), [simple("quick", run, gives="nothing")], longest=60)
    roomy.run(0, (1, 1))
    assert seen[-1] == (3, 5)


def test_rounds_start_with_another_contender_each():
    order = []
    race = Race(
        tiny_task(),
        [simple(n, lambda x, classes, n=n: order.append(n), gives="nothing") for n in "abc"],
    )
    race.prepare()
    order.clear()
    for _ in range(3):
        race.round()
    assert "".join(order) == "bcacababc"


def test_deviation():
    truth = torch.tensor([[[4.0, 1e-9], [2.0, 1.0]]], dtype=torch.float64)
    assert deviation(truth.float(), truth, half=False) < 1e-6
    values = truth.clone()
    values[0, 0, 1] = 1e-5  # 1e-5 of 1e-4 of the parameter's largest
    assert deviation(values, truth, half=False) == pytest.approx(0.1, rel=1e-3)
    assert deviation(values, truth, half=True) == pytest.approx(1e-5 / 4, rel=1e-3)
    values[0, :, 0] = float("nan")  # not given: not judged
    assert deviation(values, truth, half=False) == pytest.approx(0.1, rel=1e-3)
    assert not deviation(torch.full_like(truth, float("nan")), truth, half=False) < 1


def test_table_shows_failures_and_memory():
    race = Race(tiny_task(), [c for c in contenders() if c.name in ("gradfast", "loop")])
    race.run(0, (1, 1))
    race.results.append(Result(simple("absent", None), error="ImportError: No module named 'peer'"))
    from rich.console import Console

    console = Console(width=120, record=True)
    with console.capture() as capture:
        console.print(
            race_table(race, {"gradfast": (12_000_000, None), "loop": (None, "TimeoutError: late")})
        )
    text = capture.get()
    assert "tiny: 3 samples, 4 classes, 5 parameter tensors" in text
    assert "ImportError: No module named 'peer'" in text
    assert "12" in text
    assert "failed" in text


@pytest.fixture
def wide(tmp_path: Path) -> Settings:
    source = tmp_path / "wide.py"
    source.write_text(
        "from torch import nn\n\n\ndef build():\n"
        "    return nn.Sequential(nn.Linear(1024, 2048, bias=False), nn.ReLU(), nn.Linear(2048, 10))\n"
    )
    return Settings(model=f"{source}:build", shape=(1024,), batch_size=4)


def test_memory_of_a_child_counts_what_a_call_adds(wide: Settings):
    gradients = 10 * 1024 * 2048 * 4  # of one sample
    stored, error = peak_bytes(partial(task_of, wide), "vmap", threads=1)
    assert error is None
    assert stored >= gradients
    ours, error = peak_bytes(partial(task_of, wide), "gradfast", threads=1)
    assert error is None
    assert ours < gradients


def broken_task() -> Task:
    raise ValueError("no such task")


def test_memory_reports_a_child_that_fails(wide: Settings):
    assert peak_bytes(broken_task, "gradfast") == (None, "ValueError: no such task")


def test_command_compares_a_users_model(wide: Settings, tmp_path: Path):
    out = tmp_path / "figures.json"
    done = CliRunner().invoke(
        app,
        ["bench", wide.model, "--shape", "1024", "--batch-size", "2", "--classes", "3", "--only", "gradfast,loop",
         "--seconds", "0", "--no-memory", "--explain", "--json", str(out)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "autograd, loop" in done.output
    assert "0.weight" in done.output
    found = json.loads(out.read_text())
    assert [r["name"] for r in found["results"]] == ["gradfast", "loop"]
    assert found["classes"] == 3
    assert found["machine"]["versions"]["torch"] == torch.__version__.split("+")[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "gradfst"], "--only: got 'gradfst'; nearest: gradfast"),
        (["--shape", "7"], "--shape: the model does not take samples of shape (7,)"),
        (["--shape", "a,b"], "--shape: got 'a,b'"),
    ],
)
def test_command_says_what_is_wrong(wide: Settings, options: list[str], message: str):
    done = CliRunner().invoke(app, ["bench", wide.model, "--shape", "1024", "--seconds", "0", *options])
    assert done.exit_code == 2
    assert message in done.output


def engine_record(figures: dict[str, float | None]) -> dict[str, object]:
    """As bench_engine.py leaves it, with these seconds a row; None: failed."""
    results = []
    for c in contenders() + libraries():
        per_row = figures.get(c.name, 1.0)
        results.append(
            {
                "name": c.name, "title": c.title, "how": c.how, "gives": c.gives, "contrast": c.contrast,
                "samples": 16, "rows": 10, "seconds": [] if per_row is None else [per_row * 160] * 3,
                "per_row": per_row, "deviation": 1e-6, "layers": 62,
                "error": "RuntimeError: it broke" if per_row is None else None,
            }
        )  # fmt: skip
    return {
        "kind": "engine", "task": "resnet18-32", "batch": 16, "classes": 10, "tensors": 62, "parameters": 11,
        "results": results,
    }  # fmt: skip


def test_results_name_what_is_met_missed_and_failed(bench: str):
    results = importlib.import_module(f"{bench}.results")
    machine = importlib.import_module("gradfast.bench.machine")
    figures = {
        "gradfast": 0.1, "gradfast-bf16": 0.09, "input-gradient": 0.15, "input-gradient-nhwc": 0.125, "loop": 0.45,
        "opacus": None, "vmap": 3.0, "torchjd": 0.05, "gradfast-all-ones": 0.5, "forward-backward": 0.6,
    }  # fmt: skip
    run = {
        "machine": machine.describe(),
        "command": "python -m bench",
        "seconds": 60.0,
        "failures": {"memory": "it took more than 9 s"},
        "records": [
            engine_record(figures),
            {"kind": "limits", "gemm_float32": 100.0, "gemm_bfloat16": 200.0, "read": 10.0},
            {"kind": "limits", "gemm_float32": 120.0, "gemm_bfloat16": 100.0, "read": 20.0},
            *(
                {"kind": "memory", "task": "resnet18-32", "contender": name, "bytes": size, "error": error}
                for name, size, error in (
                    ("gradfast", 4e7, None),
                    ("input-gradient", 8e7, None),
                    ("opacus", None, "TimeoutError: late"),
                )
            ),
            {
                "kind": "kernel",
                "case": "a kernel",
                "dtype": "float32",
                "flops": 6e9,
                "bytes": 1e6,
                "seconds": 0.1,
            },
            {
                "kind": "scaling",
                "curve": "classes",
                "axis": "N",
                "title": "t",
                "points": [[100, 1.0], [1000, 5.0]],
            },
        ],
    }
    page = results.render(run)
    rows: dict[str, str] = {}
    for line in page.splitlines():
        if line.startswith("|"):
            rows.setdefault(line.split("|")[1].strip(), line)
    gradient = rows["torch's class-batched input gradient, no norms (the faster memory format)"]
    assert "| <= 0.9 | 0.80 | met | <= 0.5 | 0.72 | **missed** |" in gradient
    loop = rows["loop over samples and classes with autograd"]
    assert ">= 5 times faster | 4.5 times faster | **missed** | >= 9 times faster | 5.0 times faster" in loop
    assert "not measured" in rows["Opacus ghost norms, loop over classes"]
    assert (
        "| <= 1 | 0.83 | met |"
        in rows["all-ones contrast against one batched forward and backward (the faster memory format)"]
    )
    assert "| <= 1 | 0.50 | met |" in rows["peak memory added, against torch's class-batched input gradient"]
    assert "| input-gradient | 80 | 2.00 |" in page
    assert "| opacus | failed | `TimeoutError: late` |" in page
    assert "`RuntimeError: it broke`" in page
    assert "resnet18-32: TorchJD autogram, all classes at once is 2.00 times faster" in page
    assert "memory: it took more than 9 s" in page
    assert "cost 0.50 of the straight line through 100 classes (wanted <= 0.6: met)" in page
    assert "| a kernel | float32 | 100.00 | 60.0 | 0.0 | 50% |" in page
    assert "120 GFLOP/s in float32 and 200 in bfloat16, reading memory 20.0 GB/s" in page


def test_plots_are_drawn(bench: str, tmp_path: Path):
    plots = importlib.import_module(f"{bench}.plots")
    curve = {"axis": "B, samples", "title": "a, b", "points": [[1, 0.1], [2, 0.2], [4, 0.4]]}
    plots.scaling([curve, curve], tmp_path / "scaling.svg")
    kernel = {"case": "a kernel", "dtype": "float32", "flops": 1e9, "bytes": 1e6, "seconds": 0.1}
    limits = {"gemm_float32": 100.0, "gemm_bfloat16": 200.0, "read": 10.0}
    plots.roofline([kernel], limits, tmp_path / "roofline.svg")
    assert "straight line" in (tmp_path / "scaling.svg").read_text()
    assert "a kernel" in (tmp_path / "roofline.svg").read_text()


def test_profile_survives_a_job_that_fails(bench: str, tmp_path: Path):
    profile = importlib.import_module(f"{bench}.__main__")
    job = profile.Job("broken", ("bench_engine.py::test_no_such",), 0, 0, 1.0)
    records, failures = profile.run([job], 1, 1, tmp_path / "log")
    assert records == []
    assert failures["broken"].startswith("pytest ended with")
    assert "test_no_such" in (tmp_path / "log").read_text()
    assert profile.run([job], 0, 1, tmp_path / "log") == ([], {"broken": "no time was left"})


def test_profile_runs_every_benchmark(bench: str):
    profile = importlib.import_module(f"{bench}.__main__")
    models = importlib.import_module(f"{bench}.models")
    selected = [part for job in profile.jobs() for part in job.selection]
    assert {f"bench_engine.py::test_engine[{name}]" for name in models.TASKS} <= set(selected)
    assert {"bench_memory.py", "bench_kernels.py", "bench_scaling.py"} <= set(selected)
    assert sum(job.share for job in profile.jobs()) <= 1
