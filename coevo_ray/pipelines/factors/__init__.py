"""Codes, factors and scores of a feature table (arXiv 2603.04981)."""
