"""Models that other parts of torch have wrapped, compiled, exported or prepared: the same norms, or a clear error."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from closeness import assert_close
from torch import Tensor, nn

import gradfast
from gradfast import reference
from gradfast.errors import FallbackWarning, InputError, ModelError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)  # fmt: skip
    return nn.Sequential(*layers).eval()


def x() -> Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def truth() -> reference.GradNorms:
    return reference.grad_norms(net().double(), x().double())


def check(model: nn.Module, prefix: str = "", inputs: Tensor | None = None, tolerance: float = 1e-4) -> None:
    """The norms of the bare model, under the wrapper's names, on the fast path."""
    wanted = truth()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        found = gradfast.grad_norms(model, x() if inputs is None else inputs)
    assert found.layers == tuple(prefix + name for name in wanted.layers)
    assert found.fallback == ()
    assert_close(found.values.double(), wanted.values, wanted.layers, tolerance)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A gloo process group of one."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compiled(backend: str) -> None:
    """Not compiled by the call: what is inside is recorded."""
    model = torch.compile(net(), backend=backend)
    check(model, "_orig_mod.")


def test_compiled_in_place() -> None:
    model = net()
    model.compile(backend="eager")
    check(model)


def test_a_compiled_part() -> None:
    """The compiled part is one operation to the recorder, so its parameters take the path of one sample at a time."""
    model = nn.Sequential(torch.compile(net()[:3], backend="aot_eager"), *net()[3:]).eval()
    wanted = truth()
    with pytest.warns(FallbackWarning):
        found = gradfast.grad_norms(model, x())
    assert_close(found.values.double(), wanted.values, wanted.layers, 1e-4)


def test_exported() -> None:
    program = torch.export.export(net(), (x(),))
    check(program.module())
    with pytest.raises(
        InputError, match=r"ExportedProgram.*wanted a torch\.nn\.Module, here its \.module\(\)"
    ):
        gradfast.grad_norms(program, x())  # type: ignore[arg-type]


def test_exported_with_a_batch_of_its_own() -> None:
    """A program exported for batches of three takes no others; the engine must not split its batch."""
    program = torch.export.export(net(), (x(),))
    with pytest.raises(Exception, match=r"(?s)shape|Guard"):
        gradfast.grad_norms(program.module(), x()[:2])


@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript(how: str) -> None:
    model = torch.jit.script(net()) if how == "script" else torch.jit.trace(net(), x())
    wanted = truth()
    found = gradfast.grad_norms(model, x())
    assert_close(found.values.double(), wanted.values, wanted.layers, 1e-4)


def test_channels_last() -> None:
    layout = {"memory_format": torch.channels_last}
    check(net().to(**layout), inputs=x().to(**layout))
    check(net().to(**layout))
    check(net(), inputs=x().to(**layout))


def test_autocast() -> None:
    """A surrounding autocast lowers the forward pass, as it would for autograd; the norms stay float32."""
    wanted = truth()
    with torch.autocast("cpu", torch.bfloat16):
        found = gradfast.grad_norms(net(), x())
    assert found.values.dtype == torch.float32
    summed, of = found.values.double().sum(-1), wanted.values.sum(-1)
    torch.testing.assert_close(summed, of, rtol=0.05, atol=1e-3)
    outside = gradfast.grad_norms(net(), x())
    assert_close(outside.values.double(), wanted.values, wanted.layers, 1e-4)


def test_data_parallel() -> None:
    check(nn.DataParallel(net()).eval(), "module.")


def test_distributed_data_parallel(group: None) -> None:
    model = nn.parallel.DistributedDataParallel(net()).eval()
    check(model, "module.")
    model.train()  # a training step after it is as if there had been no call
    model(x()).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_distributed_data_parallel_compiled(group: None) -> None:
    check(
        torch.compile(nn.parallel.DistributedDataParallel(net()).eval(), backend="eager"), "_orig_mod.module."
    )


@pytest.mark.parametrize("original", [False, True])
def test_fully_sharded(group: None, original: bool) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = FullyShardedDataParallel(net(), device_id=torch.device("cpu"), use_orig_params=original).eval()
    with pytest.raises(ModelError, match=r"model: it .*wrapped by FSDP.*wanted the module as it was before"):
        gradfast.grad_norms(model, x())


def test_fully_shard(group: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = fully_shard(net(), mesh=init_device_mesh("cpu", (1,))).eval()
    with pytest.raises(ModelError, match=r"wrapped by FSDP.*load the full state dict into it"):
        gradfast.grad_norms(model, x())


class TestQuantisation:
    @pytest.fixture
    def prepared(self) -> nn.Module:
        from torch.ao.quantization import get_default_qat_qconfig, prepare_qat

        model = net().train()
        model.qconfig = get_default_qat_qconfig("fbgemm")
        model = prepare_qat(model)
        model(x())
        return model.eval()

    def test_aware_training_with_observers_on(self, prepared: nn.Module) -> None:
        before = copy.deepcopy(prepared.state_dict())
        with pytest.raises(
            ModelError, match=r"observes what passes .*torch\.ao\.quantization\.disable_observer"
        ):
            gradfast.grad_norms(prepared, x())
        torch.testing.assert_close(dict(prepared.state_dict()), dict(before), equal_nan=True)

    def test_aware_training(self, prepared: nn.Module) -> None:
        """With the straight-through gradient, as autograd takes it."""
        from torch.ao.quantization import disable_observer

        prepared.apply(disable_observer)
        found, wanted = gradfast.grad_norms(prepared, x()), reference.grad_norms(prepared, x())
        assert found.layers == wanted.layers
        assert_close(found.values, wanted.values, wanted.layers, 1e-4)

    def test_converted(self) -> None:
        from torch.ao.quantization import quantize_dynamic

        with pytest.raises(
            ModelError, match=r"5 \(Linear\) computes with quantised weights.*before it was converted"
        ):
            gradfast.grad_norms(quantize_dynamic(net(), {nn.Linear}), x())


def test_an_operator_without_a_gradient() -> None:
    """Autograd only warns, and gives zeros for what lies behind; here that is no answer."""
    library = torch.library.Library("gradfast_test", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: torch.from_numpy(2 * x.detach().numpy()), "CPU")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.ops.gradfast_test.twice(self.a(x)))

    with pytest.raises(ModelError, match=r"an operator that has no gradient in torch"):
        gradfast.grad_norms(Net().eval(), torch.randn(2, 4))
