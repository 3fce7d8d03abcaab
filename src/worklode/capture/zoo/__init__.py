"""Models of the papers, written in plain PyTorch."""
