"""What a user calls, in Python and through the command line."""
