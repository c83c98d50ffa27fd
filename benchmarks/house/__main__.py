"""python -m benchmarks.house."""

from benchmarks.house.measure import main

main()
