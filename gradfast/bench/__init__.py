"""Fair comparisons: gradfast against other ways to the same numbers, interleaved in one run.

``contenders`` and ``libraries`` hold the ways, ``race`` times them in turn so that a drift of the machine cancels in the
ratios, ``memory`` measures each one's peak in a child process, ``machine`` says what it ran on. `gradfast bench MODEL` and
the project's own ``bench/`` are made of these parts.
"""

from .contenders import Contender, Prepared, contenders
from .libraries import libraries
from .race import Race, Result, Task

__all__ = ["Contender", "Prepared", "Race", "Result", "Task", "contenders", "libraries"]
