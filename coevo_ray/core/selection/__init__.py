"""Dynamic selection: ledger, policies and their building blocks (arXiv 2603.04981)."""
