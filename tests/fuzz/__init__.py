"""Fuzzing of everything that reads files of others: `python -m tests.fuzz`, and a few inputs of each in the tests."""
