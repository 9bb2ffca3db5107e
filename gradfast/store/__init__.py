"""Features on disk: a directory of checked Parquet files, written so that a killed run can go on."""

from .block import Block
from .errors import CorruptError, InUseError, MismatchError, StoreError
from .layout import Layout
from .run import Manifest, Run
from .shard import ShardFile
from .shared import SharedRun

__all__ = [
    "Block",
    "CorruptError",
    "InUseError",
    "Layout",
    "Manifest",
    "MismatchError",
    "Run",
    "ShardFile",
    "SharedRun",
    "StoreError",
]
