"""Targets: does the knowledge sit in the data? A fresh network on stored targets against BYOL and others."""
