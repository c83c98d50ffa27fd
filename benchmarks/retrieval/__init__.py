"""Retrieval: what retrieved rows of an open pool are worth, beside random rows and simple rules."""
