"""The feed: hands a subset's batches to training workers."""
