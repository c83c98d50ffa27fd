"""The functions that users call, in Python and through the command line."""
