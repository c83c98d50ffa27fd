"""Algorithms on arrays: NumPy, Torch and faiss only; no Ray, no files. Importable with Ray blocked (tested)."""
