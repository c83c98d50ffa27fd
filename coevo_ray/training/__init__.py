"""Ray Train: the feed, SAE fit, supervised training."""
