"""How the package uses Ray: the session, shards as blocks, errors that come back as they were raised."""
