"""Sparse autoencoder, its codes, and the scores of rows (arXiv 2603.04981)."""
