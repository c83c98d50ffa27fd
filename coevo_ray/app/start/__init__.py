"""`coevo-ray start`: looks at data, proposes a run and writes its file, and with `--go` runs to the first requests."""
