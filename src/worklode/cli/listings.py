"""`worklode models` and `worklode presets`: what has a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worklode.cli.outcome import Outcome

if TYPE_CHECKING:
    from rich.table import Table
