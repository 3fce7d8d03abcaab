"""A fair contest of searchers: one interface, one cost model, one space, the same limits, measured CPU time."""
