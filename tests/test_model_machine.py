"""One model that is built, changed and called at random, against plain autograd in float64.

Plans are kept per model and found again by the shape of its graph: whatever was done to the model between two calls, the second
must not be answered by what was learned in the first.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from closeness import assert_close
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from random_steps import POOLS, STEPS, D, Model, T
from torch import Tensor, nn
from zoo.base import randomise

import gradfast
from gradfast import reference
from gradfast.errors import ModelError

MOST_STEPS = 6
LETTERS = st.sampled_from("ab")
BATCHES = st.sampled_from([1, 2, 3, T, 5])  # T samples of T positions: a transposition keeps the shape
BUDGETS = st.sampled_from([None, 3, 1.5, 1.0])  # of what one sample needs
CONTRASTS: dict[str, dict[str, Any]] = {
    "all": {},
    "chosen": {"classes": [1, 2]},
    "top": {"classes": 2},
    "ones": {"contrast": "all-ones"},
    "own": {"contrast": torch.linspace(-1, 1, 6, dtype=torch.float64), "loss": "mse"},
}


def state_of(model: nn.Module) -> list[Any]:
    flags = [(p.requires_grad, p.grad is None, id(p)) for p in model.parameters()]
    return [[m.training for m in model.modules()], flags, *(t.clone() for t in model.state_dict().values())]


class Machine(RuleBasedStateMachine):
    """Each rule changes the model, or asks and checks."""

    @initialize(seed=st.integers(0, 1000))
    def build(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = Model([("linear", "a")]).double().eval()

    # What is done to the model
    @precondition(lambda self: len(self.model.plan) < MOST_STEPS)
    @rule(name=st.sampled_from(sorted(STEPS)), which=LETTERS, at=st.integers(0, MOST_STEPS))
    def add(self, name: str, which: str, at: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(at)
            self.model.add(name, which, min(at, len(self.model.plan)))
            self.model.double().train(self.model.training)

    @precondition(lambda self: self.model.plan)
    @rule(at=st.integers(0, MOST_STEPS - 1))
    def remove(self, at: int) -> None:
        del self.model.plan[at % len(self.model.plan)]

    @precondition(lambda self: self.model.plan)
    @rule(at=st.integers(0, MOST_STEPS - 1), name=st.sampled_from(sorted(STEPS)), which=LETTERS)
    def replace(self, at: int, name: str, which: str) -> None:
        """Another step in the place of one."""
        at %= len(self.model.plan)
        self.add(name, which, at)
        del self.model.plan[at + 1]

    @precondition(lambda self: len(self.model.plan) > 1)
    @rule(at=st.integers(0, MOST_STEPS - 1))
    def swap(self, at: int) -> None:
        plan = self.model.plan
        at %= len(plan) - 1
        plan[at], plan[at + 1] = plan[at + 1], plan[at]

    @rule(pool=st.sampled_from(POOLS))
    def pool(self, pool: str) -> None:
        self.model.pool = pool

    @rule(classes=st.sampled_from([3, 4, D]))
    def new_head(self, classes: int) -> None:
        with torch.random.fork_rng(devices=[]):
            self.model.head = nn.Linear(D, classes, bias=classes != D).double().train(self.model.training)

    @precondition(lambda self: self._linears())
    @rule(which=LETTERS)
    def share(self, which: str) -> None:
        """A layer takes another's weight: the head's where it has its shape, or its own brother's."""
        ours, head = self._linears(), self.model.head
        mine = ours.get(which) or next(iter(ours.values()))
        others = [head, *ours.values()] if head.weight.shape == mine.weight.shape else list(ours.values())
        mine.weight = others[0].weight

    @precondition(lambda self: self._linears())
    @rule(which=LETTERS)
    def unshare(self, which: str) -> None:
        mine = self._linears().get(which)
        if mine is not None:
            mine.weight = nn.Parameter(mine.weight.detach().clone())

    @rule(which=st.integers(0, 20), scale=st.sampled_from([-1.0, 0.5, 0.0]))
    def write(self, which: int, scale: float) -> None:
        """In place, as a training step does; zero leaves parameters that no cotangent reaches."""
        parameters = list(self.model.parameters())
        with torch.no_grad():
            parameters[which % len(parameters)].mul_(scale)

    @rule(seed=st.integers(0, 1000))
    def randomise(self, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            randomise(self.model)

    @rule(which=st.integers(0, 20))
    def freeze(self, which: int) -> None:
        parameters = list(self.model.parameters())
        p = parameters[which % len(parameters)]
        p.requires_grad_(not p.requires_grad)

    @rule(training=st.booleans())
    def mode(self, training: bool) -> None:
        self.model.train(training)

    @rule()
    def copied(self) -> None:
        self.model = copy.deepcopy(self.model)

    # What is asked of it
    @rule(b=BATCHES, contrast=st.sampled_from(sorted(CONTRASTS)), share=BUDGETS, head=st.booleans())
    def norms(self, b: int, contrast: str, share: float | None, head: bool) -> None:
        options = {**self._contrast(contrast), "layers": "head" if head else None}
        x = self._draw(b)
        found = self._ask(lambda **more: gradfast.grad_norms(self.model, x, **options, **more), x, share)
        if found is not None:
            truth = reference.grad_norms(self.model, x, **options)
            assert found.layers == truth.layers
            assert set(found.unused) >= set(truth.unused)
            assert_close(found.values, truth.values, truth.layers, 1e-8)

    @rule(b=BATCHES, contrast=st.sampled_from(["all", "ones"]), share=BUDGETS)
    def dots(self, b: int, contrast: str, share: float | None) -> None:
        options, x, to = self._contrast(contrast), self._draw(b), self._gradients()
        found = self._ask(lambda **more: gradfast.grad_dots(self.model, x, to, **options, **more), x, share)
        if found is not None:
            truth = reference.grad_dots(self.model, x, to, **options)
            lengths = self._lengths(x, to, options)
            assert_close(found.values, truth.values, truth.layers, 1e-8, scale=lengths)

    @rule(b=BATCHES, contrast=st.sampled_from(["all", "ones"]), share=BUDGETS)
    def cosines(self, b: int, contrast: str, share: float | None) -> None:
        options, x, to = self._contrast(contrast), self._draw(b), self._gradients()
        found = self._ask(
            lambda **more: gradfast.grad_cosines(self.model, x, to, **options, **more), x, share
        )
        if found is not None:
            lengths = self._lengths(x, to, options)
            truth = reference.grad_dots(self.model, x, to, **options).values / lengths
            # Where a gradient is rounding noise it has no direction to compare.
            sure = lengths > 1e-9 * lengths.max()
            torch.testing.assert_close(found.values[sure], truth[sure], rtol=0, atol=1e-6)

    @rule(b=BATCHES, share=BUDGETS)
    def gram(self, b: int, share: float | None) -> None:
        x = self._draw(b)
        found = self._ask(lambda **more: gradfast.grad_gram(self.model, x, **more), x, share)
        if found is not None:
            truth = reference.grad_gram(self.model, x)
            squares = truth.values.diagonal(dim1=2, dim2=3)
            scale = (squares[..., :, None] * squares[..., None, :]).sqrt()
            flat = [t.movedim(1, 3).flatten(1, 2) for t in (found.values, truth.values, scale)]
            assert_close(*flat[:2], truth.layers, 1e-8, scale=flat[2])

    def _ask(self, call: Callable[..., Any], x: Tensor, share: float | None) -> Any:
        """The result under a budget; None where it is refused with reason. The model is left as it was."""
        before = state_of(self.model)
        # Refused for a sample alone, too: its statistics are those of its positions, but the mode is as wrong.
        # So is one that the model holds and no longer uses, which cannot be told from without.
        mixes = self.model.training and any(isinstance(m, nn.BatchNorm1d) for m in self.model.modules())
        try:
            if share is None:
                return call()
            with pytest.raises(gradfast.errors.InputError, match="memory_budget") as refused:
                call(memory_budget=1)
            least = int(str(refused.value).split("wanted ")[1].split()[0])
            return call(memory_budget=int(share * least))
        except ModelError:
            if not mixes:
                raise
            return None
        finally:
            after = state_of(self.model)
            assert before[:2] == after[:2]
            assert all(torch.equal(a, b) for a, b in zip(before[2:], after[2:], strict=True))

    def _linears(self) -> dict[str, nn.Linear]:
        layers = self.model.layers
        return {w: layers[f"linear_{w}"] for w in "ab" if f"linear_{w}" in layers}  # type: ignore[misc]

    def _contrast(self, name: str) -> dict[str, Any]:
        options = dict(CONTRASTS[name])
        if isinstance(options.get("contrast"), Tensor):
            options["contrast"] = options["contrast"][None, : self.model.head.out_features]
        return options

    def _draw(self, b: int) -> Tensor:
        return torch.randn(b, T, D, dtype=torch.float64, generator=self.generator)

    def _gradients(self) -> dict[str, Tensor]:
        return {
            name: torch.randn(p.shape, dtype=p.dtype, generator=self.generator)
            for name, p in self.model.named_parameters()
        }

    def _lengths(self, x: Tensor, to: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
        """Products of the lengths of the gradients and their references [B, C, L]."""
        squares = reference.grad_norms(self.model, x, **options).values
        return squares.sqrt() * torch.stack([t.norm() for t in to.values()])


# `make fuzz` looks for new sequences, all night if told to; the tests look at the same ones each time.
FUZZ = int(os.environ.get("GRADFAST_FUZZ", "0"))

TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=FUZZ or 25,
    stateful_step_count=30 if FUZZ else 16,
    derandomize=not FUZZ,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
TestMachine.pytestmark = [pytest.mark.filterwarnings("ignore::gradfast.errors.FallbackWarning")]
