"""Destinations of a training's figures beside its own files: TensorBoard, MLflow, Weights & Biases, or one of yours."""
