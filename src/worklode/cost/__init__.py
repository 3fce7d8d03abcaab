"""Cost of operators on cores: pure formulas."""
