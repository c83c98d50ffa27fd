"""The annotation gate (Info-Coevolution, arXiv 2506.08070)."""
