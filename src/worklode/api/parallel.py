"""Many devices: evaluate a chip in a parallel setting, mine one for it, or the setting and the chip together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from worklode.api.inputs import accelerator_of, limits_of, silent, space_of, technology_of
from worklode.errors import Fault, SpecError
from worklode.graph.training_graph import TrainingGraph
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.technology import Technology

if TYPE_CHECKING:
    from worklode.hardware.network import Network
    from worklode.hardware.space import DesignSpace
    from worklode.search.devices import JointResult
    from worklode.search.distributed_result import DistributedResult
    from worklode.search.grid import Grid
    from worklode.search.objective import Limits, Objective
    from worklode.search.parallel import ParallelSetting
    from worklode.search.parallel_evaluation import ParallelEvaluation

MemoryRule = Literal["auto", "fit", "ignore"]
Mode = Literal["split", "one-core"]
Progress = Callable[..., None]


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
    accelerator: Accelerator | None,
    devices: int,
    network: str | Path | Network | None = None,
    nodes_of: int | None = None,
) -> Network | None:
    """The network between devices: the one named, else that of the preset; None for a single device.

    Raises:
        SpecError: no network is known, or its nodes cannot have that size.
    """
    from worklode.hardware.network import Network
    from worklode.hardware.network_file import load_network
    from worklode.search.parallel import with_nodes_of

    preset = "" if accelerator is None else accelerator.name
    name = network or NETWORK_OF_PRESET.get(preset)
    if name is None:
        if devices == 1:
            return None
        problem = f"{devices} devices, and no network is known for {preset or 'a design without a preset'}"
        raise SpecError(Fault(where="--network", problem=problem, allowed="a preset or a YAML file"))
    found = name if isinstance(name, Network) else load_network(name, where="--network")
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
    from worklode.search.training_step import evaluate_parallel

    accelerator = accelerator_of(on, "--on")
    found = network_of(accelerator, setting.devices, network, nodes_of)
    graph = _microbatch(workload, setting.microbatch)
    return evaluate_parallel(graph, accelerator, setting, technology_of(technology), network=found)


def mine_setting(
    workloads: str | TrainingGraph | Sequence[str | TrainingGraph],
    setting: ParallelSetting,
    *,
    budget: str | Path | Accelerator | None = None,
    area_mm2: float | None = None,
    tdp_w: float | None = None,
    memory: MemoryRule = "auto",
    objective: str | Objective = "throughput",
    weights: Sequence[float] | None = None,
    space: str | Path | DesignSpace | None = None,
    network: str | Path | Network | None = None,
    nodes_of: int | None = None,
    technology: str | Path | Technology | None = None,
    mode: Mode = "split",
    top_k: int = 10,
    max_time_s: float | None = None,
    workers: int = 2,
    progress: Progress | None = None,
) -> DistributedResult:
    """Find the accelerators on which many devices train the workloads best, within a silicon budget of one device.

    Args:
        workloads: one or several captured microbatches, or what `capture` takes.
        setting: see `parallel_setting`; all workloads are trained in it.
        budget, area_mm2, tdp_w: limits of one device, see `mine`.
        memory: `fit` takes only designs whose HBM holds every stage, `ignore` any, `auto` is `fit` where the budget's
            own HBM (without a budget: the largest of the space) holds them.
        objective: `throughput` or `throughput/tdp`.
        weights: of the workloads in the geometric mean; equal where None.
        space, technology, mode, top_k, workers: see `mine`.
        network: preset name, YAML file or network; None takes that of the budget's preset.
        nodes_of: devices of a node, where not those of the network.
        max_time_s: stop each search so that all take about this long [s].
        progress: told how far the search is.

    Raises:
        SpecError: bad input.
    """
    from worklode.search.distributed import mine_parallel
    from worklode.search.distributed_result import ParallelTask
    from worklode.search.objective import Objective
    from worklode.search.training_step import prepared_model

    constants = technology_of(technology)
    baseline = None if budget is None else accelerator_of(budget, "--budget")
    limits = limits_of(baseline, area_mm2, tdp_w, constants)
    designs = space_of(space, baseline)
    goal = Objective.parse(objective)
    joined = network_of(baseline, setting.devices, network, nodes_of)
    listed = [workloads] if isinstance(workloads, str | TrainingGraph) else list(workloads)
    parts = _weights(weights, len(listed))
    tasks = []
    for workload, weight in zip(listed, parts, strict=True):
        graph = _microbatch(workload, setting.microbatch)
        model = prepared_model(graph, setting, constants, network=joined, mode=mode)
        tasks.append(
            ParallelTask(name=graph.info.name, model=model, setting=setting, network=joined, weight=float(weight))
        )
    return mine_parallel(
        tasks,
        designs,
        constants,
        limits=limits,
        objective=goal,
        memory=memory,
        baseline=baseline,
        top_k=top_k,
        workers=workers,
        max_time_s=max_time_s,
        tell=progress or silent,
    )


def mine_devices(
    workload: str | Callable[[int], TrainingGraph],
    devices: int,
    global_batch: int,
    *,
    pipeline: int | None = None,
    tensor: int | None = None,
    data: int | None = None,
    microbatch: int | None = None,
    recompute: str | None = None,
    schedule: str = "1f1b",
    sequence_parallel: bool = False,
    zero: int = 0,
    budget: str | Path | Accelerator | None = None,
    area_mm2: float | None = None,
    tdp_w: float | None = None,
    memory: MemoryRule = "auto",
    objective: str | Objective = "throughput",
    space: str | Path | DesignSpace | None = None,
    network: str | Path | Network | None = None,
    nodes_of: int | None = None,
    technology: str | Path | Technology | None = None,
    mode: Mode = "split",
    top_k: int = 10,
    workers: int = 2,
    progress: Progress | None = None,
) -> JointResult:
    """Find the setting in which a number of devices trains a workload best, together with the accelerator.

    Args:
        workload: what `capture` takes, or a function from microbatch [samples] to a captured graph.
        devices: their number.
        global_batch: samples of an iteration.
        pipeline, tensor, data, microbatch, recompute: of the setting, where given; searched where None.
        schedule, sequence_parallel, zero: of all settings.
        budget, area_mm2, tdp_w, memory, objective, space, network, nodes_of: see `mine_setting`.
        technology, mode, top_k, workers, progress: see `mine_setting`.

    Raises:
        SpecError: bad input, or no setting can be meant.
    """
    from worklode.partition.recompute import RecomputePolicy
    from worklode.search.devices import Fixed, JointSearch
    from worklode.search.distributed import mine_parallel
    from worklode.search.distributed_result import ParallelTask
    from worklode.search.grid import Grid
    from worklode.search.objective import Objective

    constants = technology_of(technology)
    baseline = None if budget is None else accelerator_of(budget, "--budget")
    limits = limits_of(baseline, area_mm2, tdp_w, constants)
    designs = space_of(space, baseline)
    goal = Objective.parse(objective)
    # What all settings share is checked by a setting of one stage on all devices.
    checked = parallel_setting(
        schedule=schedule,
        recompute=recompute or "none",
        zero=zero,
        global_batch=global_batch,
        pipeline=pipeline or 1,
        tensor=tensor or (2 if sequence_parallel else 1),
        microbatch=1,
    )
    base = replace(checked, sequence_parallel=sequence_parallel)
    check_devices(devices, pipeline=pipeline, tensor=tensor, data=data, microbatch=microbatch)
    joined = network_of(baseline, devices, network, nodes_of)
    fixed = Fixed(
        pipeline=pipeline,
        tensor=tensor,
        data=data,
        microbatch=microbatch,
        recompute=None if recompute is None else RecomputePolicy(recompute),
    )
    make = workload if callable(workload) else lambda size: _microbatch(workload, size)
    search = JointSearch(make, base, devices, fixed, joined, constants, goal, progress or silent, mode=mode)

    def mine(task: ParallelTask, enforced: bool) -> DistributedResult:
        return mine_parallel(
            [task],
            designs,
            constants,
            limits=limits,
            objective=goal,
            memory="fit" if enforced else "ignore",
            baseline=baseline,
            top_k=top_k,
            workers=workers,
            tell=progress or silent,
        )

    middle = tuple(length // 2 for length in designs.shape)
    return search.run(
        baseline or designs.accelerator(middle),
        memory,
        _largest_hbm_bytes(Grid(designs, constants), limits, baseline),
        mine,
    )


def _microbatch(workload: str | TrainingGraph, samples: int) -> TrainingGraph:
    """The captured step of a workload with a microbatch."""
    from worklode.api import capture

    return capture(workload, batch=samples) if isinstance(workload, str) else workload


def _largest_hbm_bytes(grid: Grid, limits: Limits, baseline: Accelerator | None) -> float:
    """HBM of the design that has most within area and TDP, the budget's own among them [bytes]."""
    from worklode.search.frontier import designs_within
    from worklode.search.grid import HBM

    points, _ = designs_within(grid, limits)
    stacks = grid.axes[HBM][points[:, HBM]].max(initial=0)
    return float(max(stacks * grid.space.hbm_stack_bytes, 0 if baseline is None else baseline.hbm_bytes))


def _weights(weights: Sequence[float] | None, workloads: int) -> Sequence[float]:
    from worklode.search.mining import check_weights

    if not workloads:
        raise SpecError(Fault(where="workloads", problem="at least one workload is needed"))
    parts = (1.0,) * workloads if weights is None else tuple(weights)
    check_weights(parts, workloads)
    return parts


def check_devices(devices: int, **parts: int | None) -> None:
    """Refuse what does not divide the devices.

    Raises:
        SpecError: every fault.
    """
    faults = []
    for name, value in {"devices": devices, **parts}.items():
        if value is not None and value < 1:
            faults.append(Fault(where=f"--{name}", value=str(value), problem="is not positive", allowed="1 or more"))
    given = {name: value for name, value in parts.items() if value is not None and name != "microbatch"}
    product = 1
    for value in given.values():
        product *= value
    if not faults and devices % product:
        shown = " x ".join(f"{name} {value}" for name, value in given.items())
        allowed = f"a multiple of {product}"
        faults.append(Fault(where="--devices", value=str(devices), problem=f"{shown} does not divide", allowed=allowed))
    if faults:
        raise SpecError(*faults)
