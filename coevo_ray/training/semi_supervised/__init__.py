"""Training on few labels with consistency on all other rows (FixMatch, arXiv 2001.07685)."""
