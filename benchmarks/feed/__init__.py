"""Feed: what an epoch of a part of a pool costs, and how fast the feed is beside a torch DataLoader."""
