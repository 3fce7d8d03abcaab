"""worklode mines accelerators for training deep networks."""

__version__ = "0.1.0.dev0"
