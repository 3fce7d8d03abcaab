"""What a notebook calls: capture a workload, evaluate a design on it, mine the best design for it.

Evaluation and search are imported where they are used: they load compiled kernels, which a capture does without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from worklode.errors import Fault, SpecError
from worklode.frontend.api import capture as capture_workload
from worklode.frontend.api import capture_module
from worklode.frontend.options import CaptureOptions
from worklode.graph.training_graph import TrainingGraph
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.presets import load_accelerator
from worklode.hardware.technology import Technology, load_technology
from worklode.study.cache import cached_graph

if TYPE_CHECKING:
    from worklode.hardware.network import Network
    from worklode.hardware.space import DesignSpace
    from worklode.search.evaluate import Evaluator
    from worklode.search.evaluation import Evaluation
    from worklode.search.mining import MiningResult
    from worklode.search.objective import Limits, Objective
    from worklode.search.parallel import ParallelSetting
    from worklode.search.training_step import ParallelEvaluation

    AnyWorkload = str | TrainingGraph | Evaluator

# Called with what is being done, how much of it is done and how much there is (0 where unknown).
Progress = Callable[..., None]
Note = Callable[[str], None]
Mode = Literal["split", "one-core"]
MemoryRule = Literal["auto", "fit", "ignore"]

__all__ = ["capture", "capture_module", "evaluate", "evaluate_setting", "evaluator", "mine", "parallel_setting"]


# Share of a time limit that goes to the search, the rest to the proof [1]. Assumption: what both take without a limit.
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
    return cached_graph(workload, options, make, note=note or _silent, refresh=not use_cache)


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

    return Evaluator(_graph(workload), _technology(technology), mode=mode)


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
        mode: `split` lets an operator use many cores, `one-core` runs it on one.
        technology: file that overlays technology constants.

    Raises:
        SpecError: bad input.
    """
    return evaluator(workload, mode=mode, technology=technology).evaluate(_accelerator(on, "--on"))


def parallel_setting(*, schedule: str = "1f1b", recompute: str = "none", **counts: Any) -> ParallelSetting:
    """A parallel setting from texts and numbers: the fields of `ParallelSetting`.

    Raises:
        SpecError: every fault of it.
    """
    from worklode.partition.recompute import RecomputePolicy
    from worklode.schedule.pipeline_orders import parse_schedule
    from worklode.search.parallel import ParallelSetting

    faults: list[Fault] = []
    policy = RecomputePolicy(recompute) if recompute in set(RecomputePolicy) else RecomputePolicy.NONE
    if recompute not in set(RecomputePolicy):
        allowed = ", ".join(RecomputePolicy)
        faults.append(Fault(where="--recompute", value=repr(recompute), problem="no such policy", allowed=allowed))
    known = ParallelSetting.__dataclass_fields__
    unknown = [name for name in counts if name not in known]
    faults += [Fault(where="parallel", path=n, problem="no such option", allowed=", ".join(known)) for n in unknown]
    counts = {name: value for name, value in counts.items() if name in known}
    try:
        setting = ParallelSetting(recompute=policy, schedule=parse_schedule(schedule), **counts)
        faults += setting.faults()
    except SpecError as error:
        faults += [*error.faults, *ParallelSetting(recompute=policy, **counts).faults()]
    if faults:
        raise SpecError(*faults)
    return setting


# Networks of the presets that have one.
NETWORK_OF_PRESET = {
    "a100-80gb": "dgx-a100",
    "h100": "dgx-h100",
    "tpuv2": "tpuv2",
    "tpuv3": "tpuv3",
    "tpuv4": "tpuv4",
}


def network_of(
    accelerator: Accelerator, devices: int, network: str | Path | None = None, nodes_of: int | None = None
) -> Network | None:
    """The network between devices: the one named, else that of the preset; None for a single device.

    Raises:
        SpecError: no network is known, or its nodes cannot have that size.
    """
    from worklode.hardware.network_file import load_network
    from worklode.search.parallel import with_nodes_of

    name = network or NETWORK_OF_PRESET.get(accelerator.name)
    if name is None:
        if devices == 1:
            return None
        problem = f"{devices} devices, and no network is known for {accelerator.name or 'this accelerator'}"
        raise SpecError(Fault(where="--network", problem=problem, allowed="a preset or a YAML file"))
    found = load_network(name, where="--network")
    return found if nodes_of is None else with_nodes_of(found, nodes_of)


def evaluate_setting(
    workload: str | TrainingGraph,
    on: str | Path | Accelerator,
    setting: ParallelSetting,
    *,
    network: str | Path | Network | None = None,
    nodes_of: int | None = None,
    technology: str | Path | Technology | None = None,
) -> ParallelEvaluation:
    """Iteration time, energy, memory and stages of many devices of one design that train one model.

    Args:
        workload: a captured microbatch, or what `capture` takes.
        on: preset name, YAML file or accelerator.
        setting: see `parallel_setting`.
        network: preset name, YAML file or network; None takes that of the accelerator's preset.
        nodes_of: devices of a node, where not those of the network.
        technology: file that overlays technology constants.

    Raises:
        SpecError: bad input.
    """
    from worklode.hardware.network import Network
    from worklode.search.training_step import evaluate_parallel

    accelerator = _accelerator(on, "--on")
    found = network if isinstance(network, Network) else network_of(accelerator, setting.devices, network, nodes_of)
    graph = capture(workload, batch=setting.microbatch) if isinstance(workload, str) else workload
    return evaluate_parallel(graph, accelerator, setting, _technology(technology), network=found)


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
        evaluations: designs to schedule after the local search, best bound first, where no bound rules them out; with
            many the answer is that of an exhaustive search (`result.certificate.complete`).
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

    constants = _technology(technology)
    baseline = None if budget is None else _accelerator(budget, "--budget")
    limits = _limits(baseline, area_mm2, tdp_w, constants)
    least = {"top_k": (top_k, 1), "workers": (workers, 1), "evaluations": (evaluations or 0, 0)}
    faults = [
        Fault(where=name, value=str(given), problem="too small a number", allowed=f">= {fewest}")
        for name, (given, fewest) in least.items()
        if given < fewest
    ]
    if faults:
        raise SpecError(*faults)
    goal = Objective.parse(objective)
    designs = _space(space, baseline)
    listed = [workloads] if isinstance(workloads, str | TrainingGraph | Evaluator) else list(workloads)
    if not listed:
        raise SpecError(Fault(where="workloads", problem="at least one workload is needed"))
    evaluators = [w if isinstance(w, Evaluator) else Evaluator(_graph(w), constants, mode=mode) for w in listed]
    limits = replace(limits, hbm_bytes=_memory_limit(memory, evaluators, designs, baseline))
    options = LocalSearchOptions(top_k=top_k)
    proof = ProofOptions(workers=workers)
    if evaluations is not None:
        proof = replace(proof, max_evaluations=evaluations)
    if max_time_s is not None:
        options = replace(options, max_time_s=SEARCH_SHARE * max_time_s)
        proof = replace(proof, max_time_s=max_time_s)
    tell = progress or _silent
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


def limits_of(
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
    limits = _limits(budget, area_mm2, tdp_w, technology)
    return replace(limits, hbm_bytes=_memory_limit(memory, evaluators, space, budget))


def _limits(baseline: Accelerator | None, area_mm2: float | None, tdp_w: float | None, constants: Technology) -> Limits:
    from worklode.search.evaluate import silicon
    from worklode.search.objective import Limits

    if baseline is None and area_mm2 is None and tdp_w is None:
        raise SpecError(
            Fault(where="mine", problem="no silicon budget", allowed="--budget PRESET, or --area and/or --tdp")
        )
    area, power = float("inf"), float("inf")
    if baseline is not None:
        found = silicon(baseline, constants)
        area, power = found.area_mm2, found.tdp_w
    return Limits(area_mm2=area if area_mm2 is None else area_mm2, tdp_w=power if tdp_w is None else tdp_w)


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


def _space(space: str | Path | DesignSpace | None, baseline: Accelerator | None) -> DesignSpace:
    from worklode.hardware.space import DesignSpace, default_space, load_space

    if isinstance(space, DesignSpace):
        return space
    default = default_space(baseline)
    return default if space is None else load_space(Path(space), default)


def _graph(workload: str | TrainingGraph) -> TrainingGraph:
    return capture(workload) if isinstance(workload, str) else workload


def _accelerator(found: str | Path | Accelerator, where: str) -> Accelerator:
    return found if isinstance(found, Accelerator) else load_accelerator(found, where=where)


def _technology(found: str | Path | Technology | None) -> Technology:
    if isinstance(found, Technology):
        return found
    return load_technology(None if found is None else Path(found))


def _silent(*told: object) -> None:
    """Nobody listens."""
