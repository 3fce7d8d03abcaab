"""The accelerator template, technology constants, area, power and presets."""
