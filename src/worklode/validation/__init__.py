"""Comparison of the models with published measurements; nothing else depends on it."""
