"""What a notebook calls: capture a workload, evaluate a design on it, mine the best design for it.

Evaluation and search are imported where they are used: they load compiled kernels, which a capture does without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from worklode.api.inputs import accelerator_of, limits_of, silent, space_of, technology_of
from worklode.api.parallel import (
    evaluate_setting,
    mine_devices,
    mine_setting,
    network_of,
    parallel_setting,
)
from worklode.errors import Fault, SpecError
from worklode.frontend.api import capture as capture_workload
from worklode.frontend.api import capture_module
from worklode.frontend.options import CaptureOptions
from worklode.graph.training_graph import TrainingGraph
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.technology import Technology
from worklode.study.cache import cached_graph

if TYPE_CHECKING:
    from worklode.hardware.space import DesignSpace
    from worklode.search.evaluate import Evaluator
    from worklode.search.evaluation import Evaluation
    from worklode.search.mining import MiningResult
    from worklode.search.objective import Limits, Objective

    AnyWorkload = str | TrainingGraph | Evaluator

# Called with what is being done, how much of it is done and how much there is (0 where unknown).
Progress = Callable[..., None]
Note = Callable[[str], None]
Mode = Literal["split", "uninterrupted", "one-core"]
MemoryRule = Literal["auto", "fit", "ignore"]

__all__ = [
    "capture",
    "capture_module",
    "evaluate",
    "evaluate_setting",
    "evaluator",
    "mine",
    "mine_devices",
    "mine_setting",
    "network_of",
    "parallel_setting",
]


# Share of a time limit after which no more designs are looked for, whether by estimate or by exploring, and none is
# scheduled thoroughly; the rest goes to the proof [1]. Assumption: about what both take without a limit.
SEARCH_SHARE = 0.5


def capture(
    workload: str,
    *,
    use_cache: bool = True,
    note: Note | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> TrainingGraph:
    """Capture one training step of a workload; a workload captured before comes from the cache.

    Args:
        workload: zoo name, `file.py:function`, a Hugging Face `config.json`, or a saved graph.
        use_cache: take it from the cache where it is there.
        note: told what happened on the way (a damaged cache entry, say).
        progress: told what is being done.
        options: fields of `CaptureOptions` (batch, seq_len, optimizer, dtype, recompute, accumulation_steps).

    Raises:
        CaptureError: the workload, an option or the step is at fault.
    """
    found = capture_options(**options)
    found.check()
    make = lambda: capture_workload(workload, found, progress=progress)  # noqa: E731
    return cached_graph(workload, options, make, note=note or silent, refresh=not use_cache)


def capture_options(**options: Any) -> CaptureOptions:
    """Options of a capture by name.

    Raises:
        SpecError: no such option.
    """
    known = CaptureOptions.__dataclass_fields__
    faults = [
        Fault(where="capture", path=name, problem="no such option", allowed=", ".join(known))
        for name in options
        if name not in known
    ]
    if faults:
        raise SpecError(*faults)
    return CaptureOptions(**options)


def evaluator(
    workload: str | TrainingGraph, *, mode: Mode = "split", technology: str | Path | Technology | None = None
) -> Evaluator:
    """A workload ready to be put on any number of designs."""
    from worklode.search.evaluate import Evaluator

    return Evaluator(_graph(workload), technology_of(technology), mode=mode)


def evaluate(
    workload: str | TrainingGraph,
    on: str | Path | Accelerator,
    *,
    mode: Mode = "split",
    technology: str | Path | Technology | None = None,
) -> Evaluation:
    """Time, energy, area, power and utilisation of one design on one workload; the schedule is verified.

    Args:
        workload: a captured graph, or what `capture` takes.
        on: preset name, YAML file or accelerator.
        mode: `split` lets an operator use many cores, and be interrupted; `uninterrupted` many cores from start to end;
            `one-core` runs it on one.
        technology: file that overlays technology constants.

    Raises:
        SpecError: bad input.
    """
    return evaluator(workload, mode=mode, technology=technology).evaluate(accelerator_of(on, "--on"))


def mine(
    workloads: AnyWorkload | Sequence[AnyWorkload],
    *,
    budget: str | Path | Accelerator | None = None,
    area_mm2: float | None = None,
    tdp_w: float | None = None,
    memory: MemoryRule = "auto",
    objective: str | Objective = "throughput",
    weights: Sequence[float] | None = None,
    space: str | Path | DesignSpace | None = None,
    technology: str | Path | Technology | None = None,
    mode: Mode = "split",
    top_k: int = 10,
    max_time_s: float | None = None,
    evaluations: int | None = None,
    workers: int = 2,
    progress: Progress | None = None,
) -> MiningResult:
    """Find the accelerators that train the workloads best within a silicon budget.

    Args:
        workloads: one or several captured graphs, what `capture` takes, or what `evaluator` returned (whose own mode
            and technology are then used).
        budget: preset, YAML file or accelerator whose modelled area and TDP are the limits, and which is the baseline;
            its node, clock and memory generation are those of the mined designs.
        area_mm2, tdp_w: limits [mm², W]; beside a budget they replace its own.
        memory: `fit` takes only designs whose HBM holds the training step, `ignore` takes any and warns, `auto` is
            `fit` where the budget's own HBM (without a budget: the largest of the space) holds it, else `ignore`.
        objective: `throughput`, `throughput/tdp`, `energy` or `energy-delay`.
        weights: of the workloads in the geometric mean; equal where None.
        space: YAML file or space of legal values; the default has over a million designs.
        technology: file that overlays technology constants.
        mode: see `evaluate`.
        top_k: designs to evaluate in full.
        max_time_s: stop with the best so far, and the gap proven so far, after about this long [s].
        evaluations: designs to schedule after those that are explored, best bound first, where no bound rules them
            out; with many the answer is that of an exhaustive search (`result.certificate.complete`).
        workers: threads that bound designs; the answer does not depend on it.
        progress: told how far the search is.

    Raises:
        SpecError: bad input: neither budget nor limits, a limit that is not positive, an unknown name.
    """
    from worklode.search.certificate import ProofOptions
    from worklode.search.evaluate import Evaluator
    from worklode.search.local import LocalSearchOptions
    from worklode.search.mining import mine as mine_evaluators
    from worklode.search.objective import Objective

    constants = technology_of(technology)
    baseline = None if budget is None else accelerator_of(budget, "--budget")
    limits = limits_of(baseline, area_mm2, tdp_w, constants)
    least = {"top_k": (top_k, 1), "workers": (workers, 1), "evaluations": (evaluations or 0, 0)}
    faults = [
        Fault(where=name, value=str(given), problem="too small a number", allowed=f">= {fewest}")
        for name, (given, fewest) in least.items()
        if given < fewest
    ]
    if faults:
        raise SpecError(*faults)
    goal = Objective.parse(objective)
    designs = space_of(space, baseline)
    listed = [workloads] if isinstance(workloads, str | TrainingGraph | Evaluator) else list(workloads)
    if not listed:
        raise SpecError(Fault(where="workloads", problem="at least one workload is needed"))
    evaluators = [w if isinstance(w, Evaluator) else Evaluator(_graph(w), constants, mode=mode) for w in listed]
    limits = replace(limits, hbm_bytes=_memory_limit(memory, evaluators, designs, baseline))
    options = LocalSearchOptions(top_k=top_k, workers=workers)
    proof = ProofOptions(workers=workers)
    if evaluations is not None:
        proof = replace(proof, max_evaluations=evaluations)
    if max_time_s is not None:
        options = replace(options, max_time_s=SEARCH_SHARE * max_time_s)
        proof = replace(proof, max_time_s=max_time_s)
    tell = progress or silent
    return mine_evaluators(
        evaluators,
        designs,
        constants,
        limits=limits,
        objective=goal,
        baseline=baseline,
        weights=weights,
        options=options,
        proof=proof,
        progress=lambda done, most: tell("scheduling designs", done, most),
    )


def workload_limits(
    evaluators: Sequence[Evaluator],
    space: DesignSpace,
    technology: Technology,
    *,
    budget: Accelerator | None = None,
    area_mm2: float | None = None,
    tdp_w: float | None = None,
    memory: MemoryRule = "auto",
) -> Limits:
    """The limits that `mine` would keep for these workloads; arguments as there.

    Raises:
        SpecError: neither budget nor limits, or a limit that is not positive.
    """
    limits = limits_of(budget, area_mm2, tdp_w, technology)
    return replace(limits, hbm_bytes=_memory_limit(memory, evaluators, space, budget))


def _memory_limit(
    rule: MemoryRule, evaluators: Sequence[Evaluator], space: DesignSpace, baseline: Accelerator | None
) -> float:
    """HBM capacity a design must have [bytes]; 0 for any."""
    if rule not in get_args(MemoryRule):
        allowed = ", ".join(get_args(MemoryRule))
        raise SpecError(Fault(where="--memory", value=repr(rule), problem="no such rule", allowed=allowed))
    needed = max(found.memory.total_peak for found in evaluators)
    if rule == "ignore":
        return 0.0
    most = space.hbm_stacks[-1] * space.hbm_stack_bytes if baseline is None else baseline.hbm_bytes
    return float(needed) if rule == "fit" or needed <= most else 0.0


def _graph(workload: str | TrainingGraph) -> TrainingGraph:
    return capture(workload) if isinstance(workload, str) else workload
