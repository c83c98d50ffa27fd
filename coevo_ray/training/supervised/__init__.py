"""Training on labels, on each epoch's subset."""
