"""Encode of texts: rows and tokens per second of the whole stage against a bare loop over the same pool."""
