"""Ingest: sources -> pool."""
