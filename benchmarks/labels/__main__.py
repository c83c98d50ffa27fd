"""python -m benchmarks.labels."""

from benchmarks.labels.measure import main

main()
