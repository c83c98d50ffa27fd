"""python -m benchmarks.gate."""

from benchmarks.gate.measure import main

main()
