"""Whoever answers requests for labels."""
