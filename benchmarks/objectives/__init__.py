"""Objectives: what makes a network that learns targets good, one change at a time, at an equal number of views."""
