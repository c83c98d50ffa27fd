"""Encode: rows per second of the whole stage against a bare PyTorch loop over the same pool."""
