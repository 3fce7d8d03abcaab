"""The section of heuristic against exact: every row is in it, and what its sentences say follows from the rows."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from worklode.report.exactness import above, exactness_lines, exactness_report


def searched(figure: float | None, scheduled: int, cpu_s: float, design: str = "2x64x64") -> dict[str, Any]:
    """What a search found."""
    return {"figure": figure, "design": None if figure is None else design, "scheduled": scheduled, "cpu_s": cpu_s}


def row(model: str, *, coarse: float = 1.0, space: float = 1.0, exact: dict[str, Any] | None = None) -> dict[str, Any]:
    """One model whose heuristic ends this much above the exact answers."""
    return {
        "model": model,
        "coarse": {
            "space_size": 4000,
            "within_limits": 1000,
            "exhaustive": searched(0.010, 4000, 8.0, "2x96x96"),
            "heuristic": searched(0.010 * coarse, 100, 0.5),
            "pruned": searched(0.010, 110, 1.0, "2x96x96"),
            "heuristic_over_exhaustive": coarse,
            "pruned_over_exhaustive": 1.0,
            "complete": True,
        },
        "space": {
            "space_size": 2_000_000,
            "within_limits": 700_000,
            "heuristic": searched(0.005 * space, 300, 0.5),
            "mined": searched(0.005, 321, 2.0, "4x96x48"),
            "heuristic_over_mined": space,
            "bound": 0.0049,
            "heuristic_gap": 0.005 * space / 0.0049 - 1.0,
            "mined_gap": 0.005 / 0.0049 - 1.0,
            "undecided": 7,
        },
        "schedule": {
            "design": "4x96x48",
            "iteration_time_s": 0.005,
            "lower_bound_s": 0.00495,
            "gap": 0.005 / 0.00495 - 1.0,
            "part": f"{model}.blocks.1",
            "operators": 23,
            "skipped": None if exact else "OR-tools is not installed",
            "exact": exact,
        },
    }


EXACT = {
    "listed_s": 0.00102,
    "listed_cpu_s": 0.002,
    "interrupted_s": 0.00099,
    "exact_s": 0.001,
    "bound_s": 0.00098,
    "listed_over_exact": 1.02,
    "exact_gap": 0.001 / 0.00098 - 1.0,
    "proven": False,
    "finished": False,
    "source": "malleable",
    "exact_cpu_s": 9.5,
}
INFEASIBLE: dict[str, Any] = {
    "model": "none",
    "coarse": {
        "space_size": 4000,
        "within_limits": 0,
        "complete": False,
        **dict.fromkeys(("exhaustive", "heuristic", "pruned"), searched(None, 10, 1.0)),
        **dict.fromkeys(("heuristic_over_exhaustive", "pruned_over_exhaustive")),
    },
    "space": {
        "space_size": 2_000_000,
        "within_limits": 0,
        "undecided": 0,
        **dict.fromkeys(("heuristic", "mined"), searched(None, 10, 1.0)),
        **dict.fromkeys(("heuristic_over_mined", "bound", "heuristic_gap", "mined_gap")),
    },
    "schedule": None,
}


def page(*rows: dict[str, Any]) -> str:
    """The section in Markdown."""
    return "\n".join(exactness_lines({"exactness": rows, "bench": {"objective": "throughput"}}))


def terminal(*rows: dict[str, Any]) -> str:
    """The section on a terminal of 120 columns."""
    stream = StringIO()
    Console(width=120, file=stream).print(
        *exactness_report({"exactness": rows, "bench": {"objective": "throughput"}}), sep="\n"
    )
    return stream.getvalue()


def test_every_row_is_in_every_table() -> None:
    found = page(row("a", coarse=1.004, exact=EXACT), row("b", space=1.023))
    for line in (
        "| a | 4 000 | 1 000 | 10.0 ms | 0.400 % | 0 % | 100 | 110 | 8 s | 500 ms | 1 s |",
        "| b | 4 000 | 1 000 | 10.0 ms | 0 % | 0 % | 100 | 110 | 8 s | 500 ms | 1 s |",
        "| a | 700 000 | 5.00 ms | 5.00 ms | 0 % | 2.0 % | 2.0 % | 7 | 321 | 300 | 2 s | 500 ms |",
        "| a | coarse | 0.400 % | 2x64x64 | 2x96x96 |",
        "| b | whole | 2.30 % | 2x64x64 | 4x96x48 |",
        "| a | 1.0 % | a.blocks.1 | 23 | 1.00 ms | 2.00 % | -1.00 % | 2.04 % | no (stopped) | 2 ms | 9.5 s |",
        "| b | 1.0 % | b.blocks.1 | 23 | - | - | - | - | - | - | - |",
    ):
        assert _squeezed(line) in _squeezed(found), line


def test_sentences_follow_from_the_rows() -> None:
    found = _one_line(page(row("a", coarse=1.004, exact=EXACT), row("b", space=1.023)))
    assert "finds the best of all designs for 1 of 2 models, else it is worse by at most 0.400 % (a)" in found
    assert "schedules 10.0 % as many designs as keep the limits" in found
    assert "takes 16.0x its CPU time, and 8.00x that of the search with bounds" in found
    assert "would be left with 25.0 % of them" in found
    assert "finds what `mine` finds for 1 of 2 models, else it is worse by at most 2.30 % (b)" in found
    assert "`mine` takes 4.00x its CPU time" in found
    assert "0 of 1 schedules are proven optimal, and all are within 2.04 % of their bound" in found
    assert "a better schedule than the list scheduler for 1 of 1 parts, by at most 2.00 %." in found
    assert "Skipped for b: OR-tools is not installed." in found


def test_where_the_heuristic_misses_nothing_nothing_is_said_of_it() -> None:
    found = page(row("a", exact={**EXACT, "listed_over_exact": 1.0, "proven": True, "finished": True}))
    assert _one_line(found).count("worse") == 1  # what the section asks
    assert "for 0 of 1 parts." in _one_line(found)
    assert "1 of 1 schedules are proven optimal" in _one_line(found)


def test_a_heuristic_that_finds_nothing_is_named() -> None:
    found = row("a", exact=EXACT)
    found["coarse"] |= {"heuristic": searched(None, 100, 0.5), "heuristic_over_exhaustive": None}
    text = _one_line(page(found, row("b")))
    assert "for 1 of 2 models, and finds no design within the limits for a, and schedules" in text


def test_without_a_design_there_are_dashes() -> None:
    found = page(INFEASIBLE)
    assert found.count("No design of it keeps the limits.") == 2
    assert "| none | 4 000 | 0 | - | - |" in found
    assert "No design" in terminal(INFEASIBLE)


def test_the_terminal_shows_the_same_without_the_explanations() -> None:
    found = terminal(row("a", coarse=1.004, exact=EXACT))
    for text in ("Coarse space: The heuristic alone finds", "0.400 %", "a.blocks.1", "-1.00 %", "2x96x96"):
        assert text in found
    assert "CP-SAT places whole operators" not in found


@pytest.mark.parametrize(
    ("over", "text"), [(None, "-"), (1.0, "0 %"), (1.0 + 1e-12, "0 %"), (1.00346, "0.346 %"), (0.99, "-1.00 %")]
)
def test_above(over: float | None, text: str) -> None:
    assert above(over) == text


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _squeezed(text: str) -> str:
    return text.replace("10.0 ms", "10 ms").replace("5.00 ms", "5 ms").replace("1.00 ms", "1 ms")
