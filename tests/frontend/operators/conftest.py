"""Hypothesis settings: the first call of an operator takes torch long, so there is no deadline."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("operators", deadline=None)
settings.load_profile("operators")
