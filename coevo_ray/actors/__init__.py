"""Thin Ray wrappers over plain, separately tested classes."""
