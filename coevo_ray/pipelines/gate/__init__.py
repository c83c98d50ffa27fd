"""The annotation gate over the life of many processes (Info-Coevolution, arXiv 2506.08070)."""
