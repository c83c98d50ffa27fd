"""Parts that every objective shares: the start of Ray Train, optimizer, schedule, checkpoints, metrics."""
