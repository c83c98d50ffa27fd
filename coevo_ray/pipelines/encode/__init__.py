"""Encode: pool -> one contribution per prior (CoOpt, arXiv 2505.14117)."""
