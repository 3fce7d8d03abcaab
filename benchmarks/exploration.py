"""What exploring by a surrogate is worth, and how much its prior matters: the table of docs/models/search.md.

    python benchmarks/exploration.py                               all variants, to the terminal
    python benchmarks/exploration.py --write docs/models/search.md   between the marks of the page
    python benchmarks/exploration.py MODEL... --budget tpuv2 --variant default --variant "bounds alone"

Every variant mines every model, one after the other in one process whose kernels are compiled. A line says after how
many schedules, and how much CPU time, the design that it ends with had been scheduled, and how much worse it is than
the best that any variant ended with.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from marks import put

MODELS = (
    "mobilenet-v3-large",
    "resnet18",
    "inception-v3",
    "resnext101-32x8d",
    "vgg16",
    "gnmt",
    "bert-base",
    "bert-large",
    "opt-1.3b",
    "gpt2-xl",
    "gpt3-175b",
)
BUDGETS = ("tpuv2", "a100-80gb")
# Changes of the options of the local search, of the proof, and of the prior.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}, {}),
    "climbs, then bounds": ({"climbs": 6}, {"explored": 0}, {}),
    "bounds alone": ({}, {"explored": 0}, {}),
    "4 shapes": ({"shapes": 4}, {}, {}),
    "40 shapes": ({"shapes": 40}, {}, {}),
    "32 explored": ({}, {"explored": 32}, {}),
    "shared x 0.5": ({}, {}, {"shared": 0.025}),
    "shared x 2": ({}, {}, {"shared": 0.1}),
    "smooth x 0.5": ({}, {}, {"smooth": 0.01}),
    "smooth x 2": ({}, {}, {"smooth": 0.04}),
    "scatter x 0.5": ({}, {}, {"scatter": 0.0015}),
    "scatter x 2": ({}, {}, {"scatter": 0.006}),
    "reach x 0.5": ({}, {}, {"reach": 1.5}),
    "reach x 2": ({}, {}, {"reach": 6.0}),
    "slope x 0.5": ({}, {}, {"slope": 0.5}),
    "no slope": ({}, {}, {"slope": 0.0}),
}


def mined(graph: Any, budget: str, variant: str) -> dict[str, float]:
    """One mining: schedules and CPU time until the design it ends with, and in all; its figure."""
    from worklode import api
    from worklode.search import exploration, mining
    from worklode.search.local import LocalSearch
    from worklode.search.surrogate import DEFAULT_PRIOR, Surrogate

    local, proof, prior = VARIANTS[variant]
    scheduled: list[tuple[Any, float]] = []
    schedule, mine = LocalSearch.schedule, mining.mine

    def noted(search: Any, accelerator: Any, origin: str) -> Any:
        found = schedule(search, accelerator, origin)
        scheduled.append((accelerator, time.process_time()))
        return found

    def changed(*arguments: Any, **options: Any) -> Any:
        options["options"] = replace(options["options"], **local)
        options["proof"] = replace(options["proof"], **proof)
        return mine(*arguments, **options)

    gc.collect()  # tables of the minings before refer to themselves
    evaluator = api.evaluator(graph)
    with ExitStack() as stack:
        stack.enter_context(patch.object(LocalSearch, "schedule", noted))
        stack.enter_context(patch.object(mining, "mine", changed))
        chosen = partial(Surrogate, prior=replace(DEFAULT_PRIOR, **prior))
        stack.enter_context(patch.object(exploration, "Surrogate", chosen))
        started_s = time.process_time()
        result = api.mine(evaluator, budget=budget, workers=1)
        whole_s = time.process_time() - started_s
    assert result.best is not None
    asked = [accelerator for accelerator, _ in scheduled]
    number = asked.index(result.best.accelerator)
    return {
        "number": number + 1,
        "until_s": scheduled[number][1] - started_s,
        "schedules": len(asked),
        "whole_s": whole_s,
        "figure": result.best.figure,
    }


def line(variant: str, rows: Sequence[dict[str, float]]) -> str:
    """One variant over all models and budgets."""
    numbers = [row["number"] for row in rows]
    worse = [row["figure"] / row["best"] - 1.0 for row in rows]
    until, whole = (statistics.geometric_mean(row[name] for row in rows) for name in ("until_s", "whole_s"))
    schedules = statistics.fmean(row["schedules"] for row in rows)
    return (
        f"| {variant} | {statistics.median(numbers):.0f} | {max(numbers):.0f} | {until:.2f} | {schedules:.0f} |"
        f" {whole:.2f} | {sum(found > 1e-6 for found in worse)} of {len(worse)} | {max(worse):.2%} |"
    )


def section(rows: dict[str, list[dict[str, float]]], pairs: int) -> str:
    """The generated part of the page."""
    for index in range(pairs):
        best = min(found[index]["figure"] for found in rows.values())
        for found in rows.values():
            found[index]["best"] = best
    return "\n".join(
        [
            "| variant | schedules until its design, median | most | CPU until it [s] | schedules in all |"
            " CPU in all [s] | worse than the best variant | by at most |",
            "|---|---|---|---|---|---|---|---|",
            *(line(variant, found) for variant, found in rows.items()),
        ]
    )


def main() -> None:
    """Measure and print or write."""
    import worklode
    from worklode import api

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--budget", action="append")
    parser.add_argument("--variant", action="append", choices=list(VARIANTS))
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    models, budgets = given.models or list(MODELS), given.budget or list(BUDGETS)
    variants = given.variant or list(VARIANTS)
    rows: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
    for model in models:
        graph = worklode.capture(model)
        api.mine(graph, budget=budgets[0], workers=1)  # compiles and warms what is not to be measured
        for budget in budgets:
            for variant in variants:
                rows[variant].append(mined(graph, budget, variant))
                found = rows[variant][-1]
                sys.stderr.write(f"{model} {budget} {variant}: {found}\n")
    text = section(rows, len(models) * len(budgets))
    put(text, given.write, "exploration")


if __name__ == "__main__":
    main()
