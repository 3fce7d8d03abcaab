"""Scheduling operators on cores and memory bandwidth."""
