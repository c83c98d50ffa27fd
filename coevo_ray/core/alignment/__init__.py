"""Targets of several priors in one space: projection, uniformity, alignment (CoOpt, arXiv 2505.14117)."""
