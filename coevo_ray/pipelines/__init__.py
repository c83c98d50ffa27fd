"""Ray Data pipelines: ingest, encode, merge, score, gate rounds."""
