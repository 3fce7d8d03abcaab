"""`worklode reproduce`: the evaluation of the paper this project follows, from options to an outcome."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any

from worklode.cli.benching import BenchOptions, bench_request, write_bench
from worklode.cli.commands import StepOptions
from worklode.cli.faults import Faults
from worklode.cli.outcome import Outcome
from worklode.cli.progress import shown_progress
from worklode.cli.reproducing_distributed import DISTRIBUTED_TABLES, distributed_part

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

# The models of the paper's evaluation: the first of the zoo.
MODELS = 11
EVALUATION_PAGE, EVALUATION_ROWS, HEADLINE_ROWS = "evaluation.md", "evaluation.csv", "headlines.csv"
EXACTNESS_ROWS = "exactness.csv"
FIGURES = "evaluation.html"
SPEED_ROWS, RIVAL_ROWS = "speed.csv", "rivals.csv"
TABLES = (EVALUATION_ROWS, HEADLINE_ROWS, SPEED_ROWS, RIVAL_ROWS, EXACTNESS_ROWS, "rows.csv", "cells.csv")


def run_reproduce(
    models: tuple[str, ...],
    step: StepOptions,
    options: BenchOptions,
    *,
    rivals: str = "",
    rivals_time: str = "100x",
    write: Path | None = None,
) -> Outcome:
    """Run, or go on with, the evaluation; write its tables and its page, and copies of them where asked.

    Args:
        models: of the zoo, or any workload.
        step, options: as for a bench.
        rivals: searchers that are given more time, with commas between them; empty for none.
        rivals_time: how much more, over what `mine` takes.
        write: where a copy of the page goes.
    """
    from worklode.report.evaluation_page import evaluation_page, evaluation_report
    from worklode.study.bench import run_bench
    from worklode.study.bench_directory import BenchDirectory
    from worklode.study.claims import RIVALS, TIMES_LESS, open_rivals, rival_rows, sequential_designs, speed_rows
    from worklode.study.exactness import exactness_rows
    from worklode.study.exactness_rows import csv_rows
    from worklode.study.reproduction import design_rows, headlines

    started = datetime.now(UTC).astimezone()
    assert options.out is not None
    directory = BenchDirectory(options.out)
    chosen = models or paper_models()
    opposed, times = _asked(rivals, rivals_time, write)
    request, settings = bench_request(chosen, step, options)
    directory.open(settings)
    if opposed:
        open_rivals(settings, directory, times)  # other settings of theirs are refused now, not when their turn comes
    _load_sources()
    with shown_progress(quiet=step.quiet) as progress:
        result = run_bench(request, directory, progress, workers=options.workers)
        rows = design_rows(request, result, directory, progress)
        sequential = sequential_designs(request, directory, progress)
        exactness = exactness_rows(request, directory, progress)
        beside = rival_rows(request, settings, directory, opposed, times, progress, workers=options.workers)
        distributed, left_out = distributed_part(step, request, result, directory, progress)
    speed = speed_rows(result, sequential, beside)
    found = headlines(rows, speed)
    bench = result.to_dict()
    tables = {
        EVALUATION_ROWS: [asdict(row) for row in rows],
        HEADLINE_ROWS: [asdict(headline) for headline in found],
        SPEED_ROWS: [asdict(row) for row in speed],
        RIVAL_ROWS: [asdict(row) for row in beside],
        EXACTNESS_ROWS: csv_rows(exactness),
    }
    for name, written in tables.items():
        directory.write_rows(name, written)
    document: dict[str, Any] = {
        "budget": options.budget,
        "headlines": tables[HEADLINE_ROWS],
        "designs": tables[EVALUATION_ROWS],
        "claims": {
            "times_less": TIMES_LESS,
            "times_more": times,
            "not_run": [name for name in RIVALS if name not in opposed],
            "speed": tables[SPEED_ROWS],
            "rivals": tables[RIVAL_ROWS],
        },
        "exactness": [asdict(row) for row in exactness],
        "distributed": distributed,
        "bench": bench,
    }
    parts = (directory, result, bench, settings, started, chosen, options)
    messages = (*write_bench(*parts, around=document), *left_out)
    directory.write_text(EVALUATION_PAGE, evaluation_page(document))
    with suppress(ModuleNotFoundError):  # the message about the page of the bench says what is missing
        from worklode.report.evaluation_figures import evaluation_figures

        directory.write_text(FIGURES, evaluation_figures(document))
    if write is not None:
        copies = write.with_suffix("")
        copies.mkdir(parents=True, exist_ok=True)
        for name in (*TABLES, *DISTRIBUTED_TABLES):
            (copies / name).unlink(
                missing_ok=True
            )  # an empty table has no file, nor has one of a part that is left out
            if (directory.path / name).is_file():
                copyfile(directory.path / name, copies / name)
        write.write_text(evaluation_page(document, f"of the folder `{copies.name}`"), encoding="utf-8")
        messages = (*messages, f"written: {write} and {copies}")

    def report() -> Iterable[RenderableType]:
        return evaluation_report(document)

    document = {**document, "run_directory": str(directory.path)}
    return Outcome(document=document, report=report, messages=messages)


def _asked(rivals: str, rivals_time: str, write: Path | None) -> tuple[tuple[str, ...], float]:
    """Rivals, and how much more time they are given; what is asked in vain is refused before anything is measured."""
    from worklode.study.bench import check_searchers
    from worklode.units import parse_times

    opposed = tuple(dict.fromkeys(name.strip() for name in rivals.split(",") if name.strip()))
    faults = Faults()
    faults.collect(lambda: check_searchers(opposed, where="--rivals"))
    times = faults.collect(lambda: parse_times(rivals_time, where="--rivals-time"))
    if write is not None:
        _check_write(faults, write)
    faults.finish()
    assert times is not None
    return opposed, times


def _check_write(faults: Faults, write: Path) -> None:
    """Refuse a page that cannot be written."""
    folder = write.with_suffix("")
    if folder == write:
        faults.add("--write", f"{write} would be file and folder", "a file whose name ends in .md")
    elif write.is_dir() or (folder.exists() and not folder.is_dir()):
        faults.add("--write", f"{write} or {folder} is in the way", "a file, and a folder of its name for CSV files")


def _load_sources() -> None:
    """Load what makes the parts, and know the digest of its source, before hours pass and it is another version."""
    from importlib import import_module

    from worklode.study.sources import source_digest

    for name in ("search.mining", "study.exactness", "study.distributed_evaluation"):
        import_module(f"worklode.{name}")
        source_digest(f"worklode.{name}")


def paper_models() -> tuple[str, ...]:
    """Names of the eleven models."""
    from worklode.frontend.zoo.entries import ENTRIES

    return tuple(entry.name for entry in ENTRIES[:MODELS])


def default_rivals() -> str:
    """Searchers that are given more time, as `--rivals` takes them."""
    from worklode.study.claims import RIVALS

    return ",".join(RIVALS)


def default_searchers() -> str:
    """Searchers of the evaluation, as `--searchers` takes them."""
    from worklode.study.reproduction import SEARCHERS

    return ",".join(SEARCHERS)
