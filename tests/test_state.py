"""The model, its parameters and the random state are left as they were found, whatever the caller's mode."""

from __future__ import annotations

import contextlib
import copy
import random
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from closeness import assert_close
from torch import Tensor, nn
from zoo import USES, Case
from zoo.base import Function
from zoo.layers import LAYERS

import gradfast
from gradfast import reference
from gradfast.errors import DropoutWarning, GradfastError

BOTH = pytest.mark.parametrize("module", [gradfast, reference], ids=["gradfast", "reference"])
CASES = [
    USES["in-place-relu"],
    USES["frozen-layers"],
    USES["class-token"],
    USES["tied-embedding-every-token"],
    USES["spectral-norm-linear"],
    USES["checkpoint-saved-tensor-hooks"],
    USES["fused-attention"],
    LAYERS["batch-norm2d"],
    LAYERS["instance-norm2d-affine-running"],
    LAYERS["embedding-max-norm"],
    LAYERS["embedding-sparse"],
    LAYERS["lstm"],
    LAYERS["transformer-encoder-layer"],
]


def call(module: ModuleType, name: str, model: nn.Module, x: Any, **options: Any) -> Any:
    if name == "grad_dots":
        options["reference"] = {n: torch.ones_like(p) for n, p in model.named_parameters()}
    return getattr(module, name)(model, x, **options)


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything of a model that a call might leave changed."""
    return {
        "modes": [m.training for m in model.modules()],
        "hooks": [{k: list(v) for k, v in vars(m).items() if k.endswith("_hooks")} for m in model.modules()],
        "tensor hooks": [dict(p._backward_hooks or {}) for p in model.parameters()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "identities": [(n, id(p), p.data_ptr()) for n, p in model.named_parameters(remove_duplicate=False)],
        "flags": [p.requires_grad for p in model.parameters()],
        "layouts": [(p.stride(), p.dtype, p.is_leaf) for p in model.parameters()],
        "gradients": [None if p.grad is None else (id(p.grad), p.grad.tolist()) for p in model.parameters()],
        "values": [t.tolist() for t in model.state_dict().values()],
    }


def random_states() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002


@contextlib.contextmanager
def unchanged(model: nn.Module, x: Any) -> Iterator[None]:
    before, states, given = snapshot(model), random_states(), copy.deepcopy(x)
    flags = [t.requires_grad for t in tensors(x)]
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
    yield
    assert (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
    ) == modes
    after = snapshot(model)
    for what in before:
        assert after[what] == before[what], what
    assert random_states() == states
    for was, now, flag in zip(tensors(given), tensors(x), flags, strict=True):
        assert torch.equal(was, now)
        assert now.requires_grad == flag
        assert now.grad is None


def tensors(x: Any) -> list[Tensor]:
    values = [x] if isinstance(x, Tensor) else x.values() if isinstance(x, dict) else x
    return [v for v in values if isinstance(v, Tensor)]


@BOTH
@pytest.mark.parametrize("name", ["grad_norms", "grad_gram", "grad_dots"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore::gradfast.errors.FallbackWarning")
def test_a_call_leaves_no_trace(case: Case, name: str, module: ModuleType) -> None:
    model, x = case.build()
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 3 != 1)
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, float(i))
    with unchanged(model, x):
        call(module, name, model, x)


@BOTH
def test_dropout_in_train_mode_keeps_mode_and_random_state(module: ModuleType) -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(), nn.Linear(8, 4)).train()
    model[2].eval()
    with unchanged(model, x := torch.randn(3, 5)):
        module.grad_norms(model, x)


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.rand(3)
        raise ZeroDivisionError


def failing_loss(z: Tensor, t: Tensor) -> Tensor:
    raise ZeroDivisionError


def failing_backward(z: Tensor) -> Tensor:
    z.register_hook(lambda g: 1 / 0)
    return z


@BOTH
@pytest.mark.parametrize(
    ("model", "options", "error"),
    [
        (nn.Sequential(nn.Linear(5, 4), Fails()), {}, ZeroDivisionError),
        (nn.Linear(5, 4), {"loss": failing_loss}, ZeroDivisionError),
        (nn.Sequential(nn.Linear(5, 4), nn.Unflatten(1, (2, 2))), {}, GradfastError),
        (nn.Linear(5, 4), {"classes": [9]}, GradfastError),
        (nn.Linear(5, 4), {"loss": lambda z, t: z}, GradfastError),
        (nn.Linear(6, 4), {}, RuntimeError),
    ],
)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_an_exception_leaves_no_trace(
    model: nn.Module,
    options: dict[str, Any],
    error: type[Exception],
    mode: Callable[[], Any],
    module: ModuleType,
) -> None:
    model = copy.deepcopy(model)
    next(model.parameters()).requires_grad_(False)
    x = torch.randn(3, 5)
    with mode(), unchanged(model, x), pytest.raises(error):
        module.grad_norms(model, x, **options)


def test_own_hooks_still_fire_and_stay(api: ModuleType) -> None:
    model, x = USES["in-place-relu"].build()
    fired: list[str] = []
    model.a.register_forward_hook(lambda m, args, out: fired.append("forward"))
    model.b.register_forward_pre_hook(lambda m, args: fired.append("before"))
    with unchanged(model, x):
        result = api.grad_norms(model, x)
    assert {"forward", "before"} <= set(fired)
    truth = reference.grad_norms(*USES["in-place-relu"].build(torch.float64))
    assert_close(result.values, truth.values, truth.layers, 1e-4)


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode, torch.enable_grad], ids=lambda m: m.__name__
)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore::gradfast.errors.FallbackWarning")
def test_the_callers_mode_does_not_matter(case: Case, mode: Callable[[], Any], api: ModuleType) -> None:
    truth = reference.grad_norms(*case.build(torch.float64))
    model, x = case.build(torch.float64)
    model.requires_grad_(False)
    with mode(), unchanged(model, x):
        result = api.grad_norms(model, x)
    assert not result.values.requires_grad
    assert not result.logits.requires_grad
    assert_close(result.values, truth.values, truth.layers, 1e-9)


@BOTH
@pytest.mark.parametrize(
    "case", [LAYERS["batch-norm2d"], USES["tied-embedding-every-token"], USES["linear-twice"]]
)
def test_models_and_inputs_made_in_inference_mode(case: Case, module: ModuleType) -> None:
    truth = reference.grad_norms(*case.build(torch.float64))
    with torch.inference_mode():
        model, x = case.build(torch.float64)
    assert next(model.parameters()).is_inference()
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode(), unchanged(model, x):
            result = module.grad_norms(model, x)
        assert_close(result.values, truth.values, truth.layers, 1e-9)
    assert all(p.is_inference() for p in model.parameters())


@BOTH
def test_results_can_be_used_in_autograd(module: ModuleType) -> None:
    """Results made under inference mode are ordinary tensors outside of it."""
    model, x = USES["linear-twice"].build()
    with torch.inference_mode():
        result = module.grad_norms(model, x)
    weight = torch.ones(result.values.shape[2], requires_grad=True)
    (result.values @ weight).sum().backward()
    assert weight.grad is not None
    assert not result.values.is_inference()
    assert not result.logits.is_inference()


def test_an_input_that_wants_gradients(api: ModuleType) -> None:
    model, x = USES["linear-twice"].build()
    leaf = x.clone().requires_grad_()
    expected = api.grad_norms(model, x).values
    torch.testing.assert_close(api.grad_norms(model, leaf).values, expected)
    torch.testing.assert_close(api.grad_norms(model, leaf * 1).values, expected)
    assert leaf.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["linear-twice", "conv-twice", "in-place-residual", "functional-norms"])
def test_half_precision_models(name: str, dtype: torch.dtype, api: ModuleType) -> None:
    """Of the model's own numbers: the truth is that of the rounded parameters and input."""
    model, x = USES[name].build()
    model, x = model.to(dtype), x.to(dtype)
    truth = reference.grad_norms(model, x, dtype=torch.float64)
    with unchanged(model, x):
        result = api.grad_norms(model, x)
    assert result.values.dtype == torch.float32
    assert result.logits.dtype == dtype
    total, expected = result.values.double().sum(2), truth.values.sum(2)
    assert ((total - expected).abs() / expected).amax() < {torch.bfloat16: 0.1, torch.float16: 0.01}[dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["linear-twice", "conv-twice", "in-place-residual", "functional-norms"])
def test_half_precision_operands(name: str, dtype: torch.dtype, api: ModuleType) -> None:
    """``dtype=`` computes in half precision for a float32 model: the logits stay those of the model."""
    model, x = USES[name].build()
    truth = reference.grad_norms(model, x, dtype=torch.float64)
    with unchanged(model, x):
        result = api.grad_norms(model, x, dtype=dtype)
    assert result.values.dtype == torch.float32
    total, expected = result.values.double().sum(2), truth.values.sum(2)
    assert ((total - expected).abs() / expected).amax() < {torch.bfloat16: 0.1, torch.float16: 0.01}[dtype]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_memory_layouts(layout: torch.memory_format, api: ModuleType) -> None:
    model, x = USES["in-place-residual"].build(torch.float64)
    truth = reference.grad_norms(model, x)
    model, x = model.to(memory_format=layout), x.to(memory_format=layout)
    with unchanged(model, x):
        result = api.grad_norms(model, x)
    assert_close(result.values, truth.values, truth.layers, 1e-9)


@pytest.mark.parametrize(
    "drops", [nn.Dropout(0.1), nn.LSTM(8, 8, 2, dropout=0.3), nn.MultiheadAttention(8, 1, dropout=0.3)]
)
def test_dropout_in_train_mode_is_named_once_per_model(drops: nn.Module, api: ModuleType) -> None:
    model = Function(lambda m, x: m.fc(x), fc=nn.Linear(5, 4), drops=drops)
    x = torch.randn(3, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DropoutWarning)
        api.grad_norms(model.eval(), x)
        model.train()
        with pytest.raises(
            DropoutWarning, match=r"model: drops \(.*\) drops at random, for it is in train mode"
        ):
            api.grad_norms(model, x)
        api.grad_norms(model, x)
        api.grad_norms(nn.Sequential(nn.Linear(5, 4), nn.Dropout(0)).train(), x)


def test_dropout_in_train_mode_is_that_of_one_forward_pass(api: ModuleType) -> None:
    """The masks are those that the model draws for the batch from the caller's random state."""
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(), nn.Linear(8, 4)).double().train()
    x = torch.randn(3, 5, dtype=torch.float64)
    torch.manual_seed(3)
    result = api.grad_norms(model, x, classes=[0])
    torch.manual_seed(3)
    z = model(x)
    torch.testing.assert_close(result.logits, z.detach())
    for b in range(3):
        loss = F.cross_entropy(z[b], torch.tensor(0))
        gradients = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        expected = torch.stack([g.square().sum() for g in gradients])
        torch.testing.assert_close(result.values[b, 0], expected, rtol=1e-9, atol=1e-12)


@BOTH
@pytest.mark.filterwarnings("ignore::gradfast.errors.FallbackWarning")
def test_running_statistics_are_not_updated_in_train_mode(module: ModuleType) -> None:
    """InstanceNorm in train mode does not mix samples, but it does update its buffers at each forward pass."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True, track_running_stats=True))
    model = model.extend([nn.Flatten(), nn.Linear(64, 4)]).double().train()
    with unchanged(model, x := torch.randn(3, 3, 6, 6, dtype=torch.float64)):
        result = module.grad_norms(model, x)
    truth = reference.grad_norms(model, x)
    assert_close(result.values, truth.values, truth.layers, 1e-9)


@BOTH
@pytest.mark.filterwarnings("ignore::gradfast.errors.FallbackWarning")
def test_an_embedding_that_renormalises_itself(module: ModuleType) -> None:
    """With max_norm, each forward pass shortens rows of the table in place."""
    net = Function(
        lambda m, x: m.head(m.e(x).mean(1)), e=nn.Embedding(7, 5, max_norm=0.5), head=nn.Linear(5, 4)
    ).double()
    x = torch.randint(7, (3, 6))
    truth = reference.grad_norms(net, x)
    with unchanged(net, x):
        result = module.grad_norms(net, x)
    assert_close(result.values, truth.values, truth.layers, 1e-9)


@BOTH
def test_a_second_call_gives_the_same_numbers(module: ModuleType) -> None:
    model, x = USES["shifted-windows"].build()
    first, second = module.grad_norms(model, x), module.grad_norms(model, x)
    assert torch.equal(first.values, second.values)


def test_parameters_changed_between_calls(api: ModuleType) -> None:
    """What a call remembers of the model (a plan) must not remember its numbers."""
    model, x = USES["shifted-windows"].build(torch.float64)
    api.grad_norms(model, x)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    for inputs in (x, x.flip(0) + 1):
        truth = reference.grad_norms(model, inputs)
        assert_close(api.grad_norms(model, inputs).values, truth.values, truth.layers, 1e-9)


def test_a_layer_changed_between_calls(api: ModuleType) -> None:
    model, x = (
        nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)).double(),
        torch.randn(3, 5, dtype=torch.float64),
    )
    api.grad_norms(model, x)
    model[1] = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.GELU()).double()
    model[2] = nn.Linear(6, 5).double()
    truth = reference.grad_norms(model, x)
    result = api.grad_norms(model, x)
    assert result.layers == truth.layers
    assert_close(result.values, truth.values, truth.layers, 1e-9)


def test_control_flow_that_depends_on_the_input(api: ModuleType) -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return (
            m.head(m.a(x).tanh()) if x.mean() > 0 else m.head(m.a(m.a(x).sigmoid()).mean(1, keepdim=True) * x)
        )

    model = Function(forward, a=nn.Linear(5, 5), head=nn.Linear(5, 4)).double()
    x = torch.randn(1, 5, dtype=torch.float64)
    for inputs in (x.abs(), -x.abs(), x.abs()):
        truth = reference.grad_norms(model, inputs)
        assert_close(api.grad_norms(model, inputs).values, truth.values, truth.layers, 1e-9)
