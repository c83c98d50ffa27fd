"""python -m benchmarks.head_start."""

from benchmarks.head_start.measure import main

main()
