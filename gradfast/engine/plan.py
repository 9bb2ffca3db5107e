"""What happens at each operand of a recorded graph: carry the cotangent on, take a parameter's use, or neither."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from gradfast.record import Layout, Node
from gradfast.rules import Use

# Gets the node and output of each tensor used, and its use.
Taker = Callable[[Node, int, Use], None]


class StalePlanError(Exception):
    """A plan leaves open to which samples some of this batch's cotangents belong."""


class Action(Enum):
    SKIP = "skip"  # nothing asked for lies behind this operand
    CARRY = "carry"  # hand the cotangent on
    USE = "use"  # a parameter (or a tensor made of parameters) enters here, in closed form
    DENSE = "dense"  # it enters in a way in which the samples of a batch cannot be told apart


def used_edges(actions: Sequence[Action]) -> list[int]:
    """The operands through which a parameter enters in closed form."""
    return [i for i, action in enumerate(actions) if action is Action.USE]


@dataclass(frozen=True)
class Fusion:
    """One pass over the cotangents for several nodes, by order number (see engine.fusion).

    ``norms`` are the BatchNorms behind the node that it starts at, ``plain`` the operands that take the gated cotangent.
    """

    norms: tuple[int, ...]
    plain: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Cost:
    """Bytes per sample: ``activations`` that the recorded forward pass keeps; of one row, all ``cotangents`` that wait at the
    fullest moment, and the ``largest`` one.

    ``dense`` are bytes for each row whose gradient of a parameter without a closed form is formed, of one sample at a time; not
    more than ``dense_rows`` are.
    """

    activations: int = 0
    cotangents: int = 0
    largest: int = 0
    dense: int = 0
    dense_rows: int = 1


@dataclass
class Plan:
    """Actions and layouts by the order number of the graph's nodes; it outlives the graph that it was made on.

    ``uses`` counts, for each wanted parameter, the operands through which it enters; ``unserved`` names those that enter
    somewhere by Action.DENSE in a batch of more than one. ``open`` has all layouts that explain a node's cotangents where there are
    several: a batch on which they differ makes the plan anew (`StalePlanError`). ``sole`` are the nodes whose cotangent comes from one
    consumer.
    """

    batch: int
    actions: dict[int, tuple[Action, ...]] = field(default_factory=dict)
    layouts: dict[int, Layout] = field(default_factory=dict)
    uses: dict[str, int] = field(default_factory=dict)
    unserved: set[str] = field(default_factory=set)
    open: dict[int, list[Layout]] = field(default_factory=dict)
    fusions: dict[int, Fusion] = field(default_factory=dict)
    sole: set[int] = field(default_factory=set)
    cost: Cost = Cost()
