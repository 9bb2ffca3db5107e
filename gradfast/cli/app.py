"""The command line's root: its commands, and how it ends.

Nothing heavy is imported before a command runs, so that help is quick. A mistake in what was asked for ends
in one line on standard error and exit code 2 (130 after Ctrl-C); `--debug` shows the traceback instead.
"""

from __future__ import annotations

import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gradfast.cli import detect, gradcon
from gradfast.cli.bench import bench
from gradfast.cli.demo import demo
from gradfast.cli.extract import extract
from gradfast.cli.info import info
from gradfast.cli.report import report
from gradfast.cli.study import study
from gradfast.cli.train import train

__all__ = ["app", "main"]


class _Root(TyperGroup):
    """Turns the errors that gradfast raises on purpose into one line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--debug" in args:  # of the root, but wherever it stands
            args = ["--debug", *(argument for argument in args if argument != "--debug")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _one_line
                return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            print(f"gradfast: interrupted{interrupt}", file=sys.stderr)
            raise typer.Exit(130) from None
        except BrokenPipeError:  # into `head`: Typer ends without a word
            raise
        except Exception as error:
            if ctx.params.get("debug") or not _is_foreseen(error):
                raise
            print(f"gradfast: error: {error}", file=sys.stderr)
            raise typer.Exit(2) from None


def _is_foreseen(error: Exception) -> bool:
    from gradfast.errors import GradfastError

    unbuilt = isinstance(error, ImportError) and error.name == "gradfast._C"
    return unbuilt or isinstance(error, (GradfastError, OSError))


def _one_line(message: Warning | str, *_where: Any, **_more: Any) -> None:
    print(f"gradfast: {message}", file=sys.stderr)


app = typer.Typer(
    name="gradfast",
    cls=_Root,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Exact per-sample, per-class gradient norms of a neural network, and what they tell.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from gradfast.version import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options that every command has."""


app.command()(demo)
app.command()(extract)
app.add_typer(detect.app, name="detect")
app.add_typer(gradcon.app, name="gradcon")
app.command()(study)
app.command()(report)
app.command()(info)
app.command()(bench)
app.command()(train)


def main() -> None:
    """Entry point of the console script."""
    app()
