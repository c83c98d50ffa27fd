"""What networks take of a row: images, vectors or texts."""
