"""The order in which an epoch's rows are read and handed to workers."""
