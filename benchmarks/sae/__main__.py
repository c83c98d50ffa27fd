"""python -m benchmarks.sae."""

from benchmarks.sae.measure import main

main()
