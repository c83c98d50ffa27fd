"""Inputs of networks: images, vectors or texts."""
