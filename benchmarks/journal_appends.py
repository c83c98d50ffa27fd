"""Appends records to a journal and prints the seconds; `durability` runs it on the code of several checkouts.

python journal_appends.py FOLDER RECORDS BYTES
"""

from __future__ import annotations

import sys
import time

import numpy as np

from coevo_ray.store.journal import Journal
from coevo_ray.store.location import Location


def main() -> None:
    """Appends."""
    folder, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    array = np.arange(size // 8)
    journal = Journal(Location.parse(folder))
    started = time.perf_counter()
    for i in range(count):
        journal.append("labels", {"round": i}, {"row_id": array})
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main()
