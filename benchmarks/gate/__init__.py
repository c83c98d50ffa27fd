"""The annotation gate: graph, gains and draws, against the published per-row loop over an hnswlib index."""
