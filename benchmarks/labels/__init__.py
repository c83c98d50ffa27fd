"""Labels against accuracy: how many labels each way to choose rows needs for a head on frozen features."""
