"""What each recorded operation does to a cotangent, and how its parameters are used.

``uses`` holds the ways in which a parameter enters a forward pass (linear, convolution, bias, ...), each with its kernels;
``base`` the interface of a rule and the exact default for operations without one; the other modules the rules themselves,
one family each. ``rule_for`` finds the rule of a recorded operation by autograd's name for it.
"""

from gradfast.rules import (  # noqa: F401  (they register)
    attention,
    convolution,
    elementwise,
    embedding,
    matmul,
    normalization,
    pooling,
    reshape,
)
from gradfast.rules.base import Rule, rule_for
from gradfast.rules.uses import Use

__all__ = ["Rule", "Use", "rule_for"]
