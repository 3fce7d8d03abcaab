"""Cutting a training graph over devices."""
