"""Extraction by many processes: the ranks of `torchrun`, or the actors of Ray; one directory of features either way."""

from .cluster import extract
from .ranks import extract_ranks, rank_and_world

__all__ = ["extract", "extract_ranks", "rank_and_world"]
