"""python -m benchmarks.policies."""

from benchmarks.policies.measure import main

main()
