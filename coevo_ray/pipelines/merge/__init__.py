"""Merge: contributions -> aligned targets (CoOpt, arXiv 2505.14117)."""
