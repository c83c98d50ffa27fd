"""Use of Ray: the session, shards as blocks, and errors re-raised as they were raised in workers."""
