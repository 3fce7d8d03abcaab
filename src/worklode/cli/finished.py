"""`worklode report` and `worklode compare`: what finished runs found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worklode.cli.faults import Faults
from worklode.cli.outcome import EXIT_INFEASIBLE, EXIT_OK, Outcome
from worklode.errors import Fault, SpecError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from worklode.study.run_directory import Run


def report_run(folder: Path) -> Outcome:
    """The result of one run, as its command printed it."""
    from worklode.study.run_directory import read_run

    run = read_run(folder)
    if run.manifest["command"] == "bench":
        return _bench(run)
    if run.manifest["command"] == "reproduce":
        return _evaluation(run)
    mined = run.manifest["command"] == "mine"

    def report() -> Iterable[RenderableType]:
        from worklode.report.distributed import distributed_report
        from worklode.report.parallel import parallel_report
        from worklode.report.table import evaluation_report, mining_report

        if "pipeline" in run.result:
            return distributed_report(run.result) if mined else parallel_report(run.result)
        return mining_report(run.result) if mined else evaluation_report(run.result)

    infeasible = mined and run.result["best"] is None
    return Outcome(document=run.result, report=report, exit_code=EXIT_INFEASIBLE if infeasible else EXIT_OK)


def _bench(run: Run) -> Outcome:
    """The table of a bench."""

    def report() -> Iterable[RenderableType]:
        from worklode.report.bench import bench_report

        return bench_report(run.result)

    infeasible = all(reference["figure"] is None for reference in run.result["references"])
    return Outcome(document=run.result, report=report, exit_code=EXIT_INFEASIBLE if infeasible else EXIT_OK)


def _evaluation(run: Run) -> Outcome:
    """The tables of `reproduce`."""

    def report() -> Iterable[RenderableType]:
        from worklode.report.evaluation_page import evaluation_report

        return evaluation_report(run.result)

    return Outcome(document=run.result, report=report)


def compare_runs(folders: Sequence[Path]) -> Outcome:
    """The designs of several runs, in the order given."""
    faults = Faults()
    runs = [faults.collect(partial(_read_design_run, folder)) for folder in folders]
    if len(folders) < 2:
        faults.add("worklode compare", "there is only one run to compare", "two or more run directories")
    faults.finish()
    designs = [_design(run) for run in runs if run is not None]
    names = [str(folder) for folder in folders]
    document = {"runs": [{"run": name, "design": design} for name, design in zip(names, designs, strict=True)]}

    def report() -> Iterable[RenderableType]:
        from worklode.report.table import comparison_report

        return comparison_report(names, designs)

    return Outcome(document=document, report=report)


def _design(run: Run) -> Mapping[str, Any]:
    """The evaluation a run ends in: the best design mined, or the one evaluated."""
    found: Mapping[str, Any] = run.result["best"] if run.manifest["command"] == "mine" else run.result
    return found


def _read_design_run(folder: Path) -> Run:
    from worklode.study.run_directory import read_run

    run = read_run(folder)
    if run.manifest["command"] in ("bench", "reproduce"):
        raise SpecError(Fault(where=str(run.path), problem="is a bench: it has many designs", allowed="other runs"))
    if _design(run) is None:
        raise SpecError(Fault(where=str(run.path), problem="holds no design: its limits were infeasible"))
    return run
