"""Neighbour graphs: each row's nearest rows by cosine similarity."""
