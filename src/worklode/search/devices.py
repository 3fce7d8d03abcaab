"""Joint choice: how a number of devices trains a model best, and with which accelerator.

Every setting of pipeline, tensor, data, microbatch and recomputation that divides the devices is simulated on a design
and the best is mined; then all are simulated on the best design there is, until none that was not mined is better than
what was. Method, and what it does not promise: docs/models/global_search.md, section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

from worklode.errors import Fault, SpecError
from worklode.graph.training_graph import TrainingGraph
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.network import Network
from worklode.hardware.technology import Technology
from worklode.partition.recompute import RecomputePolicy
from worklode.partition.segments import segments
from worklode.partition.stage_memory import MemoryModel
from worklode.search.distributed_result import DistributedResult, ParallelTask
from worklode.search.evaluate import Mode, silicon
from worklode.search.objective import Objective
from worklode.search.parallel import ParallelSetting
from worklode.search.parallel_evaluation import ParallelEvaluation
from worklode.search.segment_costs import DividedModel
from worklode.search.training_step import divided_model, evaluate_divided

# Microbatches that are tried [samples]: powers of two; larger ones leave too few for a pipeline.
MICROBATCHES = (1, 2, 4, 8, 16)
# Settings that are mined at most [count].
MOST_MINED = 6
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
    """A setting and what it takes on the design that was found last.

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
        settings: all that were simulated, best first on the best design.
        refused: why settings could not be meant, and how many.
        dominated: settings with more recomputation than one that fits, which can only take longer.
    """

    best: DistributedResult
    settings: tuple[SettingFound, ...]
    refused: tuple[tuple[str, int], ...]
    dominated: int


Mine = Callable[[ParallelTask], DistributedResult]


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
        self.overfull: set[tuple[int, int, RecomputePolicy]] = set()
        self.undivided: dict[int, SpecError] = {}
        self.refused: dict[str, int] = {}
        self.dominated = 0

    def run(self, reference: Accelerator, capacity_bytes: float, mine: Mine) -> JointResult:
        """Search.

        Args:
            reference: design that settings are first compared on.
            capacity_bytes: largest HBM of any design: settings that need more are refused; infinite where memory is
                no limit.
            mine: finds the design of a setting.

        Raises:
            SpecError: no setting can be meant, or none fits.
        """
        settings = self._settings(reference, capacity_bytes)
        mined: dict[ParallelSetting, DistributedResult] = {}
        design, least = reference, float("inf")
        for _ in range(MOST_MINED):
            ranked = self._ranked(settings, design)
            better = [setting for figure, setting, _ in ranked if setting not in mined and figure < least]
            if not better:
                break
            found = mined[better[0]] = mine(self._task(better[0]))
            if found.best is not None and found.best.figure < least:
                design, least = found.best.accelerator, found.best.figure
        chosen = min(mined.values(), key=_figure)
        listed = [
            SettingFound(setting=setting, figure=figure, evaluation=found, mined=setting in mined)
            for figure, setting, found in self._ranked(settings, design)
        ]
        return JointResult(
            best=chosen,
            settings=tuple(listed),
            refused=tuple(sorted(self.refused.items(), key=lambda pair: (-pair[1], pair[0]))),
            dominated=self.dominated,
        )

    # -- which settings there are ---------------------------------------------------------------------------------

    def _settings(self, reference: Accelerator, capacity_bytes: float) -> list[ParallelSetting]:
        """Settings that can be meant and fit some design, with as little recomputation as fits the reference."""
        found = []
        shapes = list(self._shapes())
        for number, (tensor, pipeline, data, microbatch) in enumerate(shapes):
            self.tell("dividing over devices", number, len(shapes))
            changed = replace(
                self.base,
                tensor=tensor,
                pipeline=pipeline,
                data=data,
                microbatch=microbatch,
                sequence_parallel=self.base.sequence_parallel and tensor > 1,
            )
            if self._least_state_bytes(changed) > capacity_bytes:
                self._refuse("model state alone does not fit any design")
                continue
            policies = POLICIES if self.fixed.recompute is None else (self.fixed.recompute,)
            for place, policy in enumerate(policies):
                if (tensor, pipeline, policy) in self.overfull:
                    self._refuse(f"a stage does not fit any design, recompute {policy}")
                    continue
                setting = replace(changed, recompute=policy)
                evaluation = self._evaluate(setting, reference)
                if evaluation is None:
                    break  # no recomputation makes it one that can be meant
                if max(stage.memory.total for stage in evaluation.stages if stage.memory) > capacity_bytes:
                    self._refuse(f"a stage does not fit any design, recompute {policy}")
                    # Shapes come with growing microbatches, and activations grow with them.
                    self.overfull.add((tensor, pipeline, policy))
                    continue
                found.append(setting)
                if evaluation.fits or capacity_bytes == float("inf"):
                    self.dominated += len(policies) - place - 1
                    break
        if not found:
            reasons = "; ".join(f"{why} ({count})" for why, count in self.refused.items())
            problem = f"no setting can be meant: {reasons}" if reasons else "no setting divides them"
            raise SpecError(Fault(where="--devices", value=str(self.devices), problem=problem))
        return found

    def _shapes(self) -> Iterator[tuple[int, int, int, int]]:
        """(tensor, pipeline, data, microbatch) whose product of the first three is the number of devices."""
        fixed = self.fixed
        for tensor in _divisors(self.devices):
            if fixed.tensor not in {None, tensor}:
                continue
            for pipeline in _divisors(self.devices // tensor):
                data = self.devices // tensor // pipeline
                if fixed.pipeline not in {None, pipeline} or fixed.data not in {None, data}:
                    continue
                sizes = MICROBATCHES if fixed.microbatch is None else (fixed.microbatch,)
                for microbatch in sizes:
                    if self.base.global_batch % (data * microbatch) == 0:
                        yield tensor, pipeline, data, microbatch
                    else:
                        self._refuse("the global batch is no multiple of data x microbatch")

    def _least_state_bytes(self, setting: ParallelSetting) -> float:
        """Weights, gradients and optimizer state of the mean stage of a shard, before anything is divided [bytes]."""
        whole = self._whole_state
        shared = [
            state / setting.data if setting.zero >= level else state
            for state, level in zip(whole, (3, 2, 1), strict=True)
        ]
        return sum(shared) / (setting.tensor * setting.pipeline)

    @cached_property
    def _whole_state(self) -> tuple[int, int, int]:
        """Weights, gradients and optimizer state of the model [bytes]."""
        graph = self.capture(self.fixed.microbatch or MICROBATCHES[0])
        memory = MemoryModel(segments(graph))
        state = memory.model_state(range(len(memory.divided.segments)), self.base.state)
        return state.weights, state.gradients, state.optimizer

    def _evaluate(self, setting: ParallelSetting, design: Accelerator) -> ParallelEvaluation | None:
        """A setting on a design; None where it cannot be meant, which is counted by its reason."""
        try:
            setting.check()
            return evaluate_divided(self._model(setting), design, setting, self.network)
        except SpecError as error:
            self._refuse(error.faults[0].problem)
            return None

    def _model(self, setting: ParallelSetting) -> DividedModel:
        key = (setting.tensor, setting.microbatch, setting.recompute)
        if key not in self.models:
            if setting.tensor in self.undivided:
                raise self.undivided[setting.tensor]
            try:
                graph = self.capture(setting.microbatch)
                self.models[key] = divided_model(graph, setting, self.technology, mode=self.mode)
            except SpecError as error:
                # Whether a width divides the model does not depend on the microbatch.
                self.undivided[setting.tensor] = error
                raise
        return self.models[key]

    def _refuse(self, why: str) -> None:
        self.refused[why] = self.refused.get(why, 0) + 1

    # -- which is best --------------------------------------------------------------------------------------------

    def _ranked(
        self, settings: Sequence[ParallelSetting], design: Accelerator
    ) -> list[tuple[float, ParallelSetting, ParallelEvaluation]]:
        """Settings by their figure on a design, whether they fit it or not."""
        power = silicon(design, self.technology).tdp_w
        found = []
        for number, setting in enumerate(settings):
            self.tell("comparing settings", number, len(settings))
            evaluation = self._evaluate(setting, design)
            assert evaluation is not None, "it was evaluated before"
            figure = self.objective.figure(time_s=evaluation.iteration_time_s, tdp_w=power, energy_j=0.0)
            found.append((figure, number, setting, evaluation))
        found.sort(key=lambda entry: entry[:2])
        return [(figure, setting, evaluation) for figure, _, setting, evaluation in found]

    def _task(self, setting: ParallelSetting) -> ParallelTask:
        model = self._model(setting)
        return ParallelTask(name=model.whole.info.name, model=model, setting=setting, network=self.network)


def _figure(result: DistributedResult) -> float:
    return result.best.figure if result.best is not None else float("inf")


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
