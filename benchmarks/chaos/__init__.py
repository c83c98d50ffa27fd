"""Chaos: kills what runs on a cluster of real processes; checks that nothing is lost, doubled or left behind."""
