"""House: how the package is laid out and how fast its light commands start, measured from a checkout."""
