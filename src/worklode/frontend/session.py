"""One capture from beginning to end: build, run one step on fake tensors, lower, find the repeated blocks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from worklode import __version__
from worklode.errors import CaptureError, Fault
from worklode.frontend.autocast import CAST_CACHE, autocast_of_gpus
from worklode.frontend.blocks import assign_blocks, equal_siblings
from worklode.frontend.building import CAST_TO, arguments, build
from worklode.frontend.devices import OneDevice
from worklode.frontend.environment import package_version
from worklode.frontend.fake_device import AcceleratorFakeMode, Fakes, accelerator, make_module_fake
from worklode.frontend.faults import step_fault
from worklode.frontend.huggingface import as_on_a_device
from worklode.frontend.interrupts import HeldInterrupts
from worklode.frontend.lowering import lower
from worklode.frontend.operators import describe
from worklode.frontend.optimizers import make_optimizer, multi_tensor_allowed, state_tensors
from worklode.frontend.options import DEFAULT_OPTIMIZER, CaptureOptions, option_text
from worklode.frontend.recorder import StepRecorder
from worklode.frontend.recording import Recording
from worklode.frontend.workload import Ingredients, Workload
from worklode.graph.operator import Phase, TensorRole
from worklode.graph.training_graph import Block, TrainingGraph, WorkloadInfo

Progress = Callable[[str], None]


def run_capture(workload: Workload, options: CaptureOptions, progress: Progress) -> TrainingGraph:
    """The training graph of one step of a workload.

    Raises:
        CaptureError: the workload cannot be built or followed.
    """
    progress("building the model")
    ingredients = build(workload, options.dtype)
    module: nn.Module = ingredients.module
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise CaptureError(Fault(where=workload.name, path="module", problem="no parameter needs a gradient"))
    candidates = equal_siblings(module)
    notes = list(workload.notes)
    optimizer = options.optimizer or ingredients.optimizer or DEFAULT_OPTIMIZER
    sizes = _parameter_counts(module)
    samples = workload.batch or _first_dimension(ingredients.inputs)
    progress("running one training step on fake tensors")
    step = _Step(workload=workload, options=options, ingredients=ingredients, optimizer=optimizer)
    if options.recompute == "full" and not candidates:
        notes.append("recompute=full: the model has no repeated block, nothing is recomputed")
    recording = step.run(candidates)
    progress("lowering to a graph")
    lowered = lower(recording, describe)
    tensors = lowered.tensors
    operators, blocks = assign_blocks(lowered.operators, tensors, candidates)
    tokens = _tokens(recording, workload, samples)
    notes.extend(f"{text}, {count} times" if count > 1 else text for text, count in recording.notes.items())
    info = WorkloadInfo(
        name=workload.name,
        parameters=sizes[0],
        trainable_parameters=sizes[1],
        samples=samples * options.accumulation_steps,
        tokens=tokens * options.accumulation_steps,
        options=options.resolved(
            batch=samples, seq_len=workload.seq_len, optimizer=option_text(optimizer), device=accelerator().type
        ),
        notes=tuple(notes),
        versions=_versions(ingredients),
    )
    return TrainingGraph(info=info, tensors=tensors, operators=operators, blocks=blocks, loops=lowered.loops)


# ---------------------------------------------------------------------------------------------------- the step


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One training step of a built workload."""

    workload: Workload
    options: CaptureOptions
    ingredients: Ingredients
    optimizer: str | Callable[..., Any]

    def run(self, candidates: tuple[Block, ...]) -> Recording:
        """Forward, loss, backward for every microbatch, then the optimizer; all of it recorded."""
        device = accelerator()
        mode = AcceleratorFakeMode()
        fakes = Fakes(mode, device)
        module = self.ingredients.module
        names = {id(child): name for name, child in module.named_modules()}
        recorder = StepRecorder(names, fakes, mode, device)
        interrupts = HeldInterrupts()

        def before_call(func: Callable[..., Any], tensor: Any) -> None:
            interrupts.raise_held()
            recorder.before_call(func, tensor)

        with ExitStack() as stack:
            for context in (interrupts, as_on_a_device(), _quiet_torch(), mode, OneDevice(device, before_call)):
                stack.enter_context(context)
            stack.enter_context(autocast_of_gpus(device.type))
            stack.enter_context(torch.autograd.set_multithreading_enabled(False))
            stack.enter_context(torch.enable_grad())
            make_module_fake(module, fakes)
            self._name_parameters(recorder)
            stack.enter_context(recorder.following_modules())
            if self.options.recompute == "full":
                stack.enter_context(_checkpointed(module, candidates, recorder))
            stack.enter_context(recorder)
            for _ in range(self.options.accumulation_steps):
                self._microbatch(recorder, mode, device)
            self._optimizer_step(recorder)
        return recorder.finish()

    def _name_parameters(self, recorder: StepRecorder) -> None:
        module = self.ingredients.module
        for name, parameter in module.named_parameters():
            recorder.set_role(parameter, TensorRole.PARAMETER, name)
            recorder.owner_of[recorder.storage(parameter)] = name.rpartition(".")[0]
        for name, buffer in module.named_buffers():
            recorder.set_role(buffer, TensorRole.BUFFER, name)

    def _microbatch(self, recorder: StepRecorder, mode: AcceleratorFakeMode, device: torch.device) -> None:
        """Forward, loss and backward of fresh inputs."""
        loss = self._guarded("forward", lambda: self._forward(recorder, Fakes(mode, device), device))
        recorder.phase = Phase.BACKWARD
        self._guarded("backward", loss.backward)
        recorder.phase = None
        for name, parameter in self.ingredients.module.named_parameters():
            if parameter.grad is not None:
                recorder.set_role(parameter.grad, TensorRole.GRADIENT, name)
                recorder.owner_of[recorder.storage(parameter.grad)] = name.rpartition(".")[0]

    def _forward(self, recorder: StepRecorder, fakes: Fakes, device: torch.device) -> torch.Tensor:
        """The loss of one microbatch."""
        dtype = CAST_TO[self.options.dtype]

        def to_input(tensor: torch.Tensor) -> torch.Tensor:
            fake = fakes(tensor)
            if fake.is_floating_point() and fake.dtype != dtype:
                fake = fake.detach().to(dtype).requires_grad_(fake.requires_grad)
            recorder.set_role(fake, TensorRole.INPUT)
            return fake

        args, kwargs = arguments(self.ingredients.inputs, to_input)
        CAST_CACHE.clear()
        recorder.phase = Phase.FORWARD
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.options.dtype == "amp"):
            output = self.ingredients.module(*args, **kwargs)
            loss: torch.Tensor = self._guarded("the loss", lambda: self._loss(output))
        if self.options.accumulation_steps > 1:
            loss = loss / self.options.accumulation_steps
        recorder.phase = None
        CAST_CACHE.clear()
        if not loss.requires_grad:
            raise CaptureError(
                Fault(
                    where=self.workload.name,
                    path="loss",
                    problem="the loss depends on no parameter that needs a gradient",
                )
            )
        return loss

    def _loss(self, output: Any) -> torch.Tensor:
        """The user's loss of the output, or the one found in it: itself, `.loss`, `["loss"]`, the mean of a tensor."""
        loss = self.ingredients.loss(output) if self.ingredients.loss is not None else _loss_in(output)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            found = f"shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise CaptureError(
                Fault(
                    where=self.workload.name,
                    path="loss",
                    value=found,
                    problem="the loss is not a scalar tensor",
                    allowed="a tensor of one element, for example `output.mean()`",
                )
            )
        return loss

    def _optimizer_step(self, recorder: StepRecorder) -> None:
        """The second `step()`: the first, unrecorded, allocates the optimizer's state."""
        parameters = {id(p): n for n, p in self.ingredients.module.named_parameters()}
        trained = [p for p in self.ingredients.module.parameters() if p.requires_grad]
        with multi_tensor_allowed():
            optimizer = self._guarded(
                "the optimizer", lambda: make_optimizer(self.optimizer, trained, self.workload.name)
            )
            self._guarded("the optimizer", optimizer.step)
            for parameter, state in state_tensors(optimizer):
                name = parameters.get(id(parameter), "")
                recorder.set_role(state, TensorRole.OPTIMIZER_STATE, name)
                recorder.owner_of.setdefault(recorder.storage(state), name.rpartition(".")[0])
            recorder.phase = Phase.OPTIMIZER
            self._guarded("the optimizer", optimizer.step)
            recorder.phase = None

    def _guarded(self, doing: str, run: Callable[[], Any]) -> Any:
        """Run a part of the step; what it raises becomes a fault at the user's line."""
        try:
            return run()
        except Exception as error:
            raise step_fault(error, where=self.workload.name, doing=doing, user_file=self.workload.user_file) from error


def _loss_in(output: Any) -> Any:
    """The default loss of an output."""
    if isinstance(output, torch.Tensor):
        return output if output.numel() == 1 else output.mean()
    found = getattr(output, "loss", None)
    if found is None and isinstance(output, Mapping):
        found = output.get("loss")
    if isinstance(found, torch.Tensor):
        return found
    floats = [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
    return floats[0].mean() if floats else output


@contextmanager
def _quiet_torch() -> Iterator[None]:
    """Fake tensors log a traceback for every shape that does not fit; the fault says it better."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _checkpointed(module: nn.Module, blocks: tuple[Block, ...], recorder: StepRecorder) -> Iterator[None]:
    """Every instance of every repeated block runs under torch's non-reentrant checkpoint."""
    wrapped: list[nn.Module] = []
    for block in blocks:
        for number in range(block.first, block.first + block.count):
            name = f"{block.path}.{number}" if block.path else str(number)
            child = module.get_submodule(name)
            if "forward" not in vars(child):
                child.forward = _checkpointing(child.forward, name, recorder)
                wrapped.append(child)
    try:
        yield
    finally:
        for child in wrapped:
            del child.forward


def _checkpointing(forward: Callable[..., Any], name: str, recorder: StepRecorder) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with recorder.inside(name):
            return forward(*args, **kwargs)

    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return checkpointed


# -------------------------------------------------------------------------------------------------- the facts


def _parameter_counts(module: nn.Module) -> tuple[int, int]:
    """Elements of all parameters, and of those that train; tied ones once."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trains in sizes if trains)


def _first_dimension(inputs: Any) -> int:
    """Size of the first dimension of the first input that has one: the batch where nobody says otherwise."""
    for leaf in tree_leaves(dict(inputs) if isinstance(inputs, Mapping) else inputs):
        if isinstance(leaf, torch.Tensor) and leaf.dim():
            return int(leaf.shape[0])
    return 1


def _tokens(recording: Recording, workload: Workload, samples: int) -> int:
    """Tokens of one microbatch: the largest input that an embedding was looked up with, else samples x seq_len."""
    embedded = max(recording.embedded_inputs, default=0)
    return embedded or samples * (workload.seq_len or 0)


def _versions(ingredients: Ingredients) -> tuple[tuple[str, str], ...]:
    """Packages the graph depends on."""
    packages = {type(child).__module__.partition(".")[0] for child in ingredients.module.modules()}
    known = {
        name: package_version(name) for name in ("torch", *sorted(packages & {"transformers", "torchvision", "timm"}))
    }
    found = {"worklode": __version__} | {name: version for name, version in known.items() if version is not None}
    return tuple(sorted(found.items()))
