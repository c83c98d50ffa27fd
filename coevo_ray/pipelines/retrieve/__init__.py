"""Retrieval: rows of an open pool where a gate's gain remains."""
