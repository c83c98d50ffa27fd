"""Errors for users: each states a cause and a remedy and carries the exit code of the command line.

Exit codes (tested against docs/exit-codes.md): 0 done, 2 wrong usage or configuration, 3 bad input, 4 stopped
part-way and resumable, 1 anything else.
"""

from __future__ import annotations


class CoevoError(Exception):
    """Base of the package's errors.

    Args:
        cause: what is wrong, with need against have.
        remedy: how to fix it, if possible as a command.
    """

    exit_code: int = 1

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause, remedy)
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.cause}\n  remedy: {self.remedy}"


class UsageError(CoevoError):
    """The command or its configuration is wrong; no work was done."""

    exit_code = 2


class InputError(CoevoError, ValueError):
    """The data are wrong: missing, empty, unreadable, of the wrong shape or outside the range."""

    exit_code = 3


class StoppedError(CoevoError):
    """Work stopped part-way; what was written is kept and the same command continues it."""

    exit_code = 4
