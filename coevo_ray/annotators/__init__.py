"""Annotators: answer label requests."""
