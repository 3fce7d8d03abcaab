"""The part of `worklode reproduce` on many devices: which models have one, and their microbatches."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from worklode.cli.commands import StepOptions, captured
from worklode.errors import SpecError

if TYPE_CHECKING:
    from worklode.study.bench import BenchRequest, BenchResult, Progress
    from worklode.study.bench_directory import BenchDirectory

DISTRIBUTED_ROWS, STAGE_ROWS = "distributed.csv", "distributed_stages.csv"
DISTRIBUTED_HEADLINES, SEARCH_ROWS = "distributed_headlines.csv", "distributed_searches.csv"
DISTRIBUTED_TABLES = (DISTRIBUTED_ROWS, STAGE_ROWS, DISTRIBUTED_HEADLINES, SEARCH_ROWS)


def distributed_part(
    step: StepOptions,
    request: BenchRequest,
    result: BenchResult,
    directory: BenchDirectory,
    progress: Progress | None,
) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """The evaluation on many devices, its tables written; None where no model of the bench has such a setting.

    Also messages: why it is left out where the budget has no network between devices.
    """
    from worklode import api
    from worklode.study.distributed_evaluation import SETTINGS, DistributedModel, distributed_evaluation
    from worklode.study.reproduction import SEARCHERS, one_device_designs

    names = [workload.name for workload in request.workloads if workload.name in SETTINGS]
    if not names:
        return None, ()
    try:
        networks = {name: api.network_of(request.baseline, SETTINGS[name].devices) for name in names}
    except SpecError as error:
        return None, (f"many devices left out: {error}",)
    expected = [name for name in dict.fromkeys((*request.searchers, *SEARCHERS)) if name != "worklode"]
    models = []
    for name in names:
        designs = one_device_designs(name, request, result)
        made = {design.name for design in designs}
        models.append(
            DistributedModel(
                name=name,
                graph=captured(
                    name, replace(step, batch=SETTINGS[name].microbatch, quiet=True)
                ),  # progress is shown already
                setting=SETTINGS[name],
                network=networks[name],
                one_device=designs,
                absent=tuple(searcher for searcher in expected if searcher not in made),
            )
        )
    found = distributed_evaluation(models, request, directory, progress)
    directory.write_rows(DISTRIBUTED_ROWS, [asdict(row) for row in found.rows])
    directory.write_rows(STAGE_ROWS, [asdict(row) for row in found.stages])
    directory.write_rows(DISTRIBUTED_HEADLINES, [asdict(row) for row in found.headlines])
    directory.write_rows(SEARCH_ROWS, [{**row, "models": " ".join(row["models"])} for row in found.searches])
    return found.to_dict(), ()
