"""The command line: each command is a thin call of the function of the same name.

Progress and errors go to stderr, with `--json` one JSON object to stdout at the end. Exit codes: 0 done, 2 wrong usage
or configuration, 3 bad input, 4 stopped part-way and resumable, 1 anything else.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Annotated, NoReturn

import typer

from coevo_ray._version import __version__
from coevo_ray.cli.clean_stderr import clean_stderr
from coevo_ray.cli.on_demand import add_commands
from coevo_ray.cli.show import stdout_for_the_result
from coevo_ray.cli.stopping import Stopping, ends_on_sigterm
from coevo_ray.errors import CoevoError, StoppedError
from coevo_ray.logs import LOG_FORMAT, check_log_format, is_json, say
from coevo_ray.store.credentials import refuse_secrets
from coevo_ray.store.failures import is_of_a_store, reading_failed
from coevo_ray.telemetry import RUN_NAME, where_it_failed

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
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
    log_format: Annotated[
        str | None,
        typer.Option(help="Format of lines on stderr: text (default) or json; also accepted after a command."),
    ] = None,
    run_name: Annotated[
        str | None, typer.Option(help="Name of the run in metrics and logs; default: the output folder's.")
    ] = None,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit(0)


_WRONG_USAGE = 2
_INTERRUPTED = 128 + signal.SIGINT
_EVERYWHERE = {"--log-format": LOG_FORMAT, "--run-name": RUN_NAME}


def _fail(error: CoevoError) -> NoReturn:
    # The exit code says what a full disk keeps from being read, or a closed pipe, at which rich exits.
    with suppress(OSError, SystemExit):
        _tell(error)
    _end(error.exit_code)


def _tell(error: CoevoError) -> None:
    if is_json():
        with where_it_failed():
            say(error.cause, level=logging.ERROR, remedy=error.remedy, exit_code=error.exit_code)
        return
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"error: {error.cause}", markup=False, style="bold red")
    console.print(f"remedy: {error.remedy}", markup=False)


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    try:
        sys.stderr.flush()
    except OSError:  # Python would try again, and end with a code of its own
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    raise SystemExit(code)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs a command and exits with a documented code."""
    given = sys.argv[1:] if arguments is None else arguments
    with ends_on_sigterm() as stopping, _environment_of(given) as given, clean_stderr():
        _end(_called(given, stopping))


def _called(given: list[str], stopping: Stopping) -> int:
    """Runs a command; returns its exit code, or ends with that of its error."""
    try:
        # Before anything repeats an argument that it cannot take.
        for argument in given:
            refuse_secrets(argument, "an argument: an address")
        check_log_format()
        with stdout_for_the_result() if "--json" in given else nullcontext():
            code = app(args=given, standalone_mode=False)
        if code == _INTERRUPTED:  # typer makes this of KeyboardInterrupt
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        _fail(StoppedError("stopped by Ctrl-C", "run the same command again: finished parts are kept"))
    except Exception as error:  # the outermost frame: errors that have no exit code of their own are raised again
        known = stopping.error() or _known(error)
        if known is not None:
            _fail(known)
        if _show_usage(error):
            return _WRONG_USAGE
        _tell_trace(error)
        raise
    return code if isinstance(code, int) else 0


def _known(error: Exception) -> CoevoError | None:
    """Converts an error to one with cause and remedy; None for wrong usage and for unforeseen errors."""
    if isinstance(error, CoevoError):
        return error
    if not isinstance(error, OSError):
        return None
    if is_of_a_store(error):
        return reading_failed("a store", error)
    if error.errno is None:
        return None
    return StoppedError(f"{error}", "repair the store, then run the same command again: finished parts are kept")


def _show_usage(error: Exception) -> bool:
    """Shows a usage error of click, whichever typer brings, and returns True; False for any other error."""
    show: Callable[[], None] | None = getattr(error, "show", None)
    if show is None or not hasattr(error, "exit_code"):
        return False
    with suppress(OSError):
        show()
    return True


def _tell_trace(error: BaseException) -> None:
    """Ends the command with the traceback of an error that is none of ours, where lines are JSON."""
    if is_json():
        with where_it_failed():
            sys.excepthook(type(error), error, error.__traceback__)
        _end(1)


@contextmanager
def _environment_of(given: list[str]) -> Iterator[list[str]]:
    """Takes the options that every command has out of the arguments, wherever they stand, into the environment.

    What a job is submitted with is the job's.
    """
    before = {name: os.environ.get(name) for name in _EVERYWHERE.values()}
    places = (i for i, word in enumerate(given) if word == "submit" and given[i - 1 : i] != ["gate"])
    end = next(places, len(given))
    rest, words = [], iter(given[:end])
    for word in words:
        option, equals, value = word.partition("=")
        given_value = (value if equals else next(words, None)) if option in _EVERYWHERE else None
        if given_value is None:  # another option, or one without its value, which is refused later
            rest.append(word)
        else:
            os.environ[_EVERYWHERE[option]] = given_value
    try:
        yield rest + given[end:]
    finally:
        for name, text in before.items():
            if text is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = text
