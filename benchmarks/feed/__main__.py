"""python -m benchmarks.feed."""

from benchmarks.feed.measure import main

main()
