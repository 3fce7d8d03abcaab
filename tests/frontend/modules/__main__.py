"""Write docs/capture-modules.md."""

from pathlib import Path

from .page import page

Path(__file__).parents[3].joinpath("docs", "capture-modules.md").write_text(page(), encoding="utf-8")
