"""The search for the best design."""
