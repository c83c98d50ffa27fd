"""House: layout of the package and start-up of its light commands, measured from a checkout."""
