"""The training graph: operators, tensors, work, file format, fusion."""
