"""Folders that the first version (0.1.0) made, and what made them."""
