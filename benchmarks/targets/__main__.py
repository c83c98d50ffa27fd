"""python -m benchmarks.targets."""

from benchmarks.targets.measure import main

main()
