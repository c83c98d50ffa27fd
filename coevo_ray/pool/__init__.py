"""The pool: sources, decoding, row addressing, rejects."""
