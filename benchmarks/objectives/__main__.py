"""python -m benchmarks.objectives."""

from benchmarks.objectives.measure import main

main()
