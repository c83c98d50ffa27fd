"""The command line: each command is a thin call of the function of the same name.

Progress and errors go to stderr, with `--json` one JSON object to stdout at the end. Exit codes: 0 done, 2 wrong usage
or configuration, 3 bad input, 4 stopped part-way and resumable, 1 anything else.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from types import FrameType
from typing import Annotated, NoReturn

import typer

from coevo_ray._version import __version__
from coevo_ray.cli.on_demand import add_commands
from coevo_ray.cli.show import stdout_for_the_result
from coevo_ray.errors import CoevoError, StoppedError
from coevo_ray.store.credentials import refuse_secrets
from coevo_ray.store.failures import is_of_a_store, reading_failed

app = typer.Typer(
    name="coevo-ray",
    help="Decide what data is worth: targets from public priors, per-epoch selection, an annotation gate; on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
add_commands(app)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit(0)


_INTERRUPTED = 128 + signal.SIGINT


def _fail(error: CoevoError) -> NoReturn:
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"error: {error.cause}", markup=False, style="bold red")
    console.print(f"remedy: {error.remedy}", markup=False)
    _end(error.exit_code)


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    raise SystemExit(code)


def _stop(number: int, frame: FrameType | None) -> None:
    raise StoppedError(
        f"stopped by {signal.Signals(number).name}", "run the same command again: finished parts are kept"
    )


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs a command and exits with a documented code."""
    signal.signal(signal.SIGTERM, _stop)
    given = sys.argv[1:] if arguments is None else arguments
    try:
        # Before anything repeats an argument that it cannot take.
        for argument in given:
            refuse_secrets(argument, "an argument: an address")
        with stdout_for_the_result() if "--json" in given else nullcontext():
            code = app(args=arguments, standalone_mode=False)
        if code == _INTERRUPTED:  # typer makes this of KeyboardInterrupt
            raise KeyboardInterrupt
    except CoevoError as error:
        _fail(error)
    except KeyboardInterrupt:
        _fail(StoppedError("stopped by Ctrl-C", "run the same command again: finished parts are kept"))
    except OSError as error:
        if is_of_a_store(error):
            _fail(reading_failed("a store", error))
        if error.errno is None:
            raise
        _fail(StoppedError(f"{error}", "repair the store, then run the same command again: finished parts are kept"))
    except Exception as error:  # usage errors of whichever click typer brings; all others go on
        show: Callable[[], None] | None = getattr(error, "show", None)
        if show is None or not hasattr(error, "exit_code"):
            raise
        show()
        _end(2)
    _end(code if isinstance(code, int) else 0)
