"""What grows with rows and with nodes; see `__main__`."""
