"""Policies: accuracy of heads on frozen features, under every policy, at equal visits."""
