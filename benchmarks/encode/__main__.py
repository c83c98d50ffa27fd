"""python -m benchmarks.encode."""

from benchmarks.encode.measure import main

main()
