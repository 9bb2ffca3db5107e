"""Adversarial images: gradient attacks within a stated budget, and shifts of hue and saturation."""

from .budgets import ATTACKS, budget_of
from .pixel_model import on_pixels
from .run import AttackResult, AttackWarning, attack

__all__ = ["ATTACKS", "AttackResult", "AttackWarning", "attack", "budget_of", "on_pixels"]
