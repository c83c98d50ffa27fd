"""Arithmetic on row_ids and on long arrays in chunks."""
