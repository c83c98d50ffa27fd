"""python -m benchmarks.retrieval."""

from benchmarks.retrieval.measure import main

main()
