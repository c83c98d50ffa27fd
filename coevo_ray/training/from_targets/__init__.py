"""Training on stored targets, without labels (CoOpt, arXiv 2505.14117)."""
