"""Sparse autoencoder: fit and score, against dictionary-learning and the encoder's product alone."""
