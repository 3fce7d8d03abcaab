"""Joint choice: how a number of devices trains a model best, and with which accelerator.

Every setting of pipeline, tensor, data, microbatch and recomputation that divides the devices is simulated on a design
and the best is mined; then all are simulated on the design found too, until none that was not mined is better on any
design than what was. Method, and what it does not promise: docs/models/global_search.md, section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product
from typing import Literal

from worklode.errors import Fault, SpecError
from worklode.graph.training_graph import TrainingGraph
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.network import Network
from worklode.hardware.technology import Technology
from worklode.partition.recompute import RecomputePolicy, recompute
from worklode.partition.segments import segments
from worklode.partition.stage_memory import MemoryModel
from worklode.search.distributed_result import DistributedResult, ParallelTask
from worklode.search.evaluate import Mode, silicon
from worklode.search.objective import Objective
from worklode.search.parallel import ParallelSetting
from worklode.search.parallel_evaluation import ParallelEvaluation
from worklode.search.segment_costs import DividedModel
from worklode.search.training_step import divided_model, evaluate_divided

MemoryRule = Literal["auto", "fit", "ignore"]
# Microbatches that are tried [samples]: powers of two; larger ones leave too few for a pipeline.
MICROBATCHES = (1, 2, 4, 8, 16)
# Settings that are mined at most [count].
MOST_MINED = 6
# Settings that are compared again on what was found, at most [count]: the best on the first design. Assumption: a
# setting behind so many on one design is not the best on another.
MOST_COMPARED = 32
# Divided models that are kept [count]: those of the settings that are compared again, and a few on the way.
MOST_MODELS = 16
# Recomputation, the least time first: a policy is tried where the one before does not fit the reference.
POLICIES = (RecomputePolicy.NONE, RecomputePolicy.SELECTIVE, RecomputePolicy.FULL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """What of a setting is given; None is searched."""

    pipeline: int | None = None
    tensor: int | None = None
    data: int | None = None
    microbatch: int | None = None
    recompute: RecomputePolicy | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SettingFound:
    """A setting and what it takes on the best of the designs found that holds it.

    Attributes:
        setting: the setting.
        figure: of the objective.
        evaluation: on that design.
        mined: a design was mined for it.
    """

    setting: ParallelSetting
    figure: float
    evaluation: ParallelEvaluation
    mined: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JointResult:
    """The best setting with its accelerator.

    Attributes:
        best: mining of the best setting.
        settings: those that were compared to the end, best first, each on the best design found for it.
        simulated: settings that were simulated on the first design.
        refused: why settings could not be meant, and how many.
        dominated: settings with more recomputation than one that fits, which can only take longer.
    """

    best: DistributedResult
    settings: tuple[SettingFound, ...]
    simulated: int
    refused: tuple[tuple[str, int], ...]
    dominated: int


Mine = Callable[[ParallelTask, bool], DistributedResult]


class JointSearch:
    """One joint search."""

    def __init__(
        self,
        capture: Callable[[int], TrainingGraph],
        base: ParallelSetting,
        devices: int,
        fixed: Fixed,
        network: Network | None,
        technology: Technology,
        objective: Objective,
        tell: Callable[[str, int, int], None],
        *,
        mode: Mode = "split",
    ) -> None:
        """Prepare it.

        Args:
            capture: the training step with a microbatch.
            base: what all settings share: global batch, schedule, ZeRO, state, overlap.
            devices: their number.
            fixed: what of a setting is given.
            network: between them.
            technology: constants.
            objective: what is minimised.
            tell: progress.
            mode: as for `Evaluator`.
        """
        self.capture, self.base, self.devices, self.fixed = cache(capture), base, devices, fixed
        self.network, self.technology, self.objective, self.tell, self.mode = network, technology, objective, tell, mode
        self.models: dict[tuple[int, int, RecomputePolicy], DividedModel] = {}
        self.repeats: dict[tuple[int, int], bool] = {}
        self.undivided: dict[int, SpecError] = {}
        self.uncaptured: dict[int, SpecError] = {}
        self.refused: dict[str, int] = {}
        self.dominated = 0

    def run(self, reference: Accelerator, memory: MemoryRule, most_bytes: float, mine: Mine) -> JointResult:
        """Search.

        Args:
            reference: design that settings are first compared on.
            memory: `fit` and `ignore` as for mining; `auto` is `fit` where any setting fits the reference.
            most_bytes: largest HBM of any design [bytes].
            mine: finds the design of a setting; told whether memory is a limit.

        Raises:
            SpecError: no setting can be meant, or none fits.
        """
        enforced = memory != "ignore"
        settings = self._settings(reference, most_bytes if enforced else float("inf"))
        if memory == "auto" and not any(fits for _, _, fits in settings):
            enforced = False
            settings = self._settings(reference, float("inf"))
        if not settings:
            reasons = "; ".join(f"{why} ({count})" for why, count in self.refused.items())
            problem = f"no setting can be meant: {reasons}" if reasons else "no setting divides them"
            raise SpecError(Fault(where="--devices", value=str(self.devices), problem=problem))
        simulated = len(settings)
        settings.sort(key=lambda entry: entry[0])
        compared = [setting for _, setting, _ in settings[:MOST_COMPARED]]
        mined: dict[ParallelSetting, DistributedResult] = {}
        designs, least = [reference], float("inf")
        ranked = self._ranked(compared, designs, enforced)
        left, impossible = MOST_MINED, float("inf")
        while left:
            better = [
                setting
                for figure, setting, evaluation in ranked
                if setting not in mined and figure < least and _need_bytes(evaluation) < impossible
            ]
            if not better:
                break
            found = mined[better[0]] = mine(self._task(better[0]), enforced)
            if found.best is None:
                # Within area and TDP no design has so much HBM: settings that need as much are no better off.
                impossible = min(impossible, found.limits.hbm_bytes or float("inf"))
                continue
            left -= 1
            least = min(least, found.best.figure)
            designs.append(found.best.accelerator)
            ranked = self._ranked(compared, designs, enforced)
        return JointResult(
            best=min(mined.values(), key=_figure),
            settings=tuple(
                SettingFound(setting=setting, figure=figure, evaluation=evaluation, mined=setting in mined)
                for figure, setting, evaluation in ranked
            ),
            simulated=simulated,
            refused=tuple(sorted(self.refused.items(), key=lambda pair: (-pair[1], pair[0]))),
            dominated=self.dominated,
        )

    # -- which settings there are ---------------------------------------------------------------------------------

    def _settings(self, reference: Accelerator, capacity_bytes: float) -> list[tuple[float, ParallelSetting, bool]]:
        """(figure, setting, fits) on the reference: settings that some design can hold, and that can be meant."""
        self.refused, self.dominated = {}, 0
        found = []
        shapes = list(self._shapes())
        for number, (tensor, microbatch, splits) in enumerate(shapes):
            self.tell("dividing over devices", number, len(shapes))
            left = [setting for setting in splits if not self._overfull_state(setting, capacity_bytes)]
            policies = POLICIES if self.fixed.recompute is None else (self.fixed.recompute,)
            for place, policy in enumerate(policies):
                if not left:
                    break
                if place and not self._repeats(tensor, microbatch, policy):
                    self.dominated += len(left)  # nothing is repeated: as without
                    continue
                held = []
                for given in left:
                    setting = replace(given, recompute=policy)
                    evaluation = self._evaluate(setting, reference)
                    if evaluation is None:
                        continue  # no recomputation makes it one that can be meant
                    if _need_bytes(evaluation) > capacity_bytes:
                        self._refuse(f"a stage does not fit any design, recompute {policy}")
                        held.append(given)
                        continue
                    fits = evaluation.fits or capacity_bytes == float("inf")
                    found.append((self._value(evaluation, reference), setting, fits))
                    if fits:
                        self.dominated += len(policies) - place - 1
                    else:
                        held.append(given)
                left = held
        return found

    def _overfull_state(self, setting: ParallelSetting, capacity_bytes: float) -> bool:
        """Whether model state alone is more than any design holds."""
        levels = zip(self._whole_state, (3, 2, 1), strict=True)  # of ZeRO, from which on a state is divided
        shared = [state / setting.data if setting.zero >= level else state for state, level in levels]
        over = sum(shared) / (setting.tensor * setting.pipeline) > capacity_bytes
        if over:
            self._refuse("model state alone does not fit any design")
        return over

    def _repeats(self, tensor: int, microbatch: int, policy: RecomputePolicy) -> bool:
        """Whether a policy repeats anything of the model; kernels that recompute by themselves leave it nothing."""
        key = (tensor, microbatch)
        if policy is not RecomputePolicy.SELECTIVE:
            return True
        if key not in self.repeats:
            self.repeats[key] = bool(recompute(self._captured(microbatch), policy).operators)
        return self.repeats[key]

    def _shapes(self) -> Iterator[tuple[int, int, list[ParallelSetting]]]:
        """(tensor, microbatch, settings of no recomputation): pipeline x tensor x data is the number of devices."""
        fixed = self.fixed
        sizes = MICROBATCHES if fixed.microbatch is None else (fixed.microbatch,)
        for tensor, microbatch in product(_divisors(self.devices), sizes):
            if fixed.tensor not in {None, tensor}:
                continue
            found = []
            for pipeline in _divisors(self.devices // tensor):
                data = self.devices // tensor // pipeline
                if fixed.pipeline not in {None, pipeline} or fixed.data not in {None, data}:
                    continue
                if self.base.global_batch % (data * microbatch):
                    self._refuse("the global batch is no multiple of data x microbatch")
                    continue
                found.append(
                    replace(
                        self.base,
                        tensor=tensor,
                        pipeline=pipeline,
                        data=data,
                        microbatch=microbatch,
                        sequence_parallel=self.base.sequence_parallel and tensor > 1,
                    )
                )
            if found:
                yield tensor, microbatch, found

    def _captured(self, microbatch: int) -> TrainingGraph:
        """The step with a microbatch.

        Raises:
            SpecError: it cannot be captured so, or does not heed the number.
        """
        if microbatch in self.uncaptured:
            raise self.uncaptured[microbatch]
        try:
            graph = self.capture(microbatch)
            if graph.info.samples != microbatch:
                problem = f"the workload is captured with {graph.info.samples} samples, whatever is asked for"
                fault = Fault(where="--microbatch", value=str(microbatch), problem=problem)
                raise SpecError(replace(fault, allowed=str(graph.info.samples)))
        except SpecError as error:
            self.uncaptured[microbatch] = error
            raise
        return graph

    @cached_property
    def _whole_state(self) -> tuple[int, int, int]:
        """Weights, gradients and optimizer state of the model [bytes]."""
        sizes = MICROBATCHES if self.fixed.microbatch is None else (self.fixed.microbatch,)
        graph = None
        for size in sizes:
            try:
                graph = self._captured(size)
                break
            except SpecError:
                continue
        if graph is None:
            raise self.uncaptured[sizes[0]]
        memory = MemoryModel(segments(graph))
        state = memory.model_state(range(len(memory.divided.segments)), self.base.state)
        return state.weights, state.gradients, state.optimizer

    def _evaluate(self, setting: ParallelSetting, design: Accelerator) -> ParallelEvaluation | None:
        """A setting on a design; None where it cannot be meant, which is counted by its reason."""
        try:
            setting.check()
            return evaluate_divided(self._model(setting), design, setting, self.network, explain=False)
        except SpecError as error:
            self._refuse(error.faults[0].problem)
            return None

    def _model(self, setting: ParallelSetting) -> DividedModel:
        key = (setting.tensor, setting.microbatch, setting.recompute)
        if key not in self.models:
            if setting.tensor in self.undivided:
                raise self.undivided[setting.tensor]
            while len(self.models) >= MOST_MODELS:
                self.models.pop(next(iter(self.models)))  # the oldest
            graph = self._captured(setting.microbatch)
            try:
                self.models[key] = divided_model(graph, setting, self.technology, mode=self.mode)
            except SpecError as error:
                # Whether a width divides the model does not depend on the microbatch.
                why = f"a tensor width does not divide the model ({error.faults[0].problem}, for one)"
                first = next(iter(self.undivided.values()), None)
                fault = replace(error.faults[0], problem=why) if first is None else first.faults[0]
                self.undivided[setting.tensor] = SpecError(fault)
                raise self.undivided[setting.tensor] from error
        return self.models[key]

    def _refuse(self, why: str) -> None:
        self.refused[why] = self.refused.get(why, 0) + 1

    # -- which is best --------------------------------------------------------------------------------------------

    def _ranked(
        self, settings: Sequence[ParallelSetting], designs: Sequence[Accelerator], enforced: bool
    ) -> list[tuple[float, ParallelSetting, ParallelEvaluation]]:
        """Settings by their figure on the best design for each that holds it; of those that none holds, on any."""
        found = []
        for number, setting in enumerate(settings):
            self.tell("comparing settings", number, len(settings))
            tries = []
            for design in designs:
                evaluation = self._evaluate(setting, design)
                assert evaluation is not None, "it was evaluated before"
                tries.append((enforced and not evaluation.fits, self._value(evaluation, design), evaluation))
            _, figure, evaluation = min(tries, key=lambda one: one[:2])
            found.append((figure, number, setting, evaluation))
        found.sort(key=lambda entry: entry[:2])
        return [(figure, setting, evaluation) for figure, _, setting, evaluation in found]

    def _value(self, evaluation: ParallelEvaluation, design: Accelerator) -> float:
        """The objective's figure."""
        power = silicon(design, self.technology).tdp_w
        return float(self.objective.figure(time_s=evaluation.iteration_time_s, tdp_w=power, energy_j=0.0))

    def _task(self, setting: ParallelSetting) -> ParallelTask:
        model = self._model(setting)
        return ParallelTask(name=model.whole.info.name, model=model, setting=setting, network=self.network)


def _need_bytes(evaluation: ParallelEvaluation) -> int:
    """HBM of the fullest stage [bytes]."""
    return max(stage.memory.total for stage in evaluation.stages if stage.memory is not None)


def _figure(result: DistributedResult) -> float:
    return result.best.figure if result.best is not None else float("inf")


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
