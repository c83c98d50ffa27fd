"""`python -m coevo_ray` and the script `coevo-ray` are the command line."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

_RESUMABLE = 4


def main() -> NoReturn:
    """Runs a command and exits with a documented code."""
    signal.signal(signal.SIGTERM, _stop_before_work)  # importing the rest takes a while
    from coevo_ray.cli import main as command

    command()


def _stop_before_work(number: int, frame: FrameType | None) -> NoReturn:
    os.write(2, b"error: stopped by SIGTERM\nremedy: run the same command again\n")
    os._exit(_RESUMABLE)


if __name__ == "__main__":
    main()
