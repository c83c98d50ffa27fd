"""Prior models: adapters of public pretrained encoders and their registry."""
