"""PyTorch training steps become training graphs; the only place that imports torch."""
