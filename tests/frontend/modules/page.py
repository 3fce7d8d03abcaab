"""The catalogue as a page: `python -m tests.frontend.modules` writes docs/capture-modules.md."""

from __future__ import annotations

from worklode.graph.operator import Phase
from worklode.search.evaluation import coverage

from . import CATALOGUE
from .entry import Entry
from .graphs import captured, counted

COMMAND = "python -m tests.frontend.modules"
_INTRODUCTION = f"""\
# Training steps that capture is tested on

{{count}} small training steps beside the zoo, one of every kind a user may bring (tests/frontend/modules/). Each is
captured and compared with the same step run on a real CPU: parameters, and matrix FLOPs of forward and of backward.
Each graph is valid, fuses without a change of its FLOPs, and is evaluated on tpuv2 (tests/frontend/test_modules.py).

Written by `{COMMAND}`; the tests compare the page with what it would write now. Float32, AdamW unless said otherwise.
Operators are counted as forward with loss, backward with recomputation and accumulation, optimizer. *Kept* is what
forward keeps for backward. All FLOPs are matrix FLOPs, a multiplication and an addition counted apart.
"""
_ENDING = """
## How the FLOPs are checked

The real step is watched by a dispatch mode that sums the formulas of `torch.utils.flop_counter`, with attention written
out and mkldnn off, so that every product is seen. What it does not count, or not as a GPU runs it, is counted by
formulas of the test (tests/frontend/modules/reference.py): gradients of grouped convolutions (torch's formula leaves
`groups` out), products torch has no formula for (`mv`, `dot`, `_grouped_mm`, `_trilinear`, `affine_grid_generator`),
and the scores that fused attention computes a second time in backward.

Steps whose sizes are in the data have no real step to compare with: capture announces the upper bound it takes, and the
test counts that.
"""


def page() -> str:
    """The page."""
    own = [entry for entry in CATALOGUE.values() if entry.configuration is None]
    configurations = [entry for entry in CATALOGUE.values() if entry.configuration is not None]
    lines = [_INTRODUCTION.format(count=len(CATALOGUE)), "## Own modules\n", *_HEAD, *map(row, own)]
    lines += ["\n## Hugging Face configurations\n", *_HEAD, *map(row, configurations)]
    announced = [line for entry in CATALOGUE.values() for line in announcements(entry)]
    lines += ["\n## What was announced, and what the fallback describes\n", *announced]
    return "\n".join(lines) + "\n" + _ENDING


_HEAD = (
    "| step | what is special | parameters | operators | forward FLOPs | backward FLOPs | kept bytes | exact bytes |",
    "|---|---|---|---|---|---|---|---|",
)


def row(entry: Entry) -> str:
    """One line of the table."""
    graph, expected = captured(entry.name), counted(entry.name)
    phases = [(Phase.FORWARD, Phase.LOSS), (Phase.BACKWARD, Phase.RECOMPUTE, Phase.ACCUMULATE), (Phase.OPTIMIZER,)]
    operators = " + ".join(str(sum(o.phase in group for o in graph.operators)) for group in phases)
    cells = (
        entry.name,
        entry.shows,
        f"{expected.parameters:,}",
        operators,
        f"{expected.forward:,}",
        f"{expected.backward:,}",
        f"{graph.saved_bytes():,}",
        f"{coverage(graph).bytes_exact:.1%}",
    )
    return f"| {' | '.join(cells)} |"


def announcements(entry: Entry) -> list[str]:
    """What capture said of a step, and the operators without a description of their own."""
    graph = captured(entry.name)
    lines = [f"* {entry.name}: {note}" for note in graph.info.notes]
    lines += [
        f"* {entry.name}: `{name}` by bytes and FLOPs ({entry.fallback.get(name, '')})"
        for name in graph.fallback_operators()
    ]
    return lines
