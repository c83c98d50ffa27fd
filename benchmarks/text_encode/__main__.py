"""python -m benchmarks.text_encode."""

from benchmarks.text_encode.measure import main

main()
