"""The recorder: a dispatch mode that writes down every ATen operator of the step, above fake tensors."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorDeviceMismatchError,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.utils._python_dispatch import TorchDispatchMode

from worklode.frontend import policy, sparse
from worklode.frontend.fake_device import Fakes
from worklode.frontend.recording import Record, Recording
from worklode.frontend.results import Remake, ResultMaker
from worklode.frontend.to_call import exploded, is_multi_tensor, record_call
from worklode.graph.operator import Phase, TensorRole

_ALLOCATIONS = frozenset(
    (
        "empty",
        "empty_like",
        "empty_strided",
        "empty_permuted",
        "new_empty",
        "new_empty_strided",
        "resize_",
        "resize_as_",
        "set_",
        "_resize_output_",
    )
)
"""Packets that give memory but do no work."""

_CONSTANTS = frozenset(("lift", "lift_fresh", "lift_fresh_copy"))
"""Packets that bring a number written in the program (`torch.tensor(3)`) into the step."""

_QUESTIONS = frozenset(("sparse_dim", "dense_dim", "is_coalesced", "_nnz", "_has_compatible_shallow_copy_type"))
"""Packets that ask a sparse tensor what it is."""

_DEVICE = torch.ops.prim.device.default
_STEPS_DONE = 1000.0
"""What an optimizer is told when it asks for its step count. Assumption: any number past the warm-up of bias
corrections (RAdam's starts to rectify after five steps); the shapes do not depend on it."""

_SILENT_NAMESPACES = ("prim", "profiler")


class _Operator:
    """What the recorder wants to know of an operator overload, found out once."""

    __slots__ = (
        "chooses",
        "constant",
        "is_view",
        "multi_tensor",
        "mutates",
        "name",
        "only_writes",
        "refused",
        "silent",
    )

    def __init__(self, func: OpOverload) -> None:
        namespace, packet = func._schema.name.split("::")
        self.name = f"{namespace}.{packet}"
        self.is_view = func.is_view
        self.constant = packet in _CONSTANTS
        self.silent = (
            namespace in _SILENT_NAMESPACES
            or func.is_view
            or torch.Tag.inplace_view in func.tags  # `unsqueeze_`: another shape, the same values
            or self.constant
            or packet in _ALLOCATIONS
            or packet in _QUESTIONS
        )
        self.mutates = func._schema.is_mutable
        self.only_writes = self.mutates and all(r.alias_info is not None for r in func._schema.returns)
        self.multi_tensor = is_multi_tensor(func)
        self.refused = policy.REFUSED.get(str(func), "")
        self.chooses = func in policy.SELECTIONS


class _Slot:
    """Stands for a tensor of one shape, strides and type in the key of a call; equal ones are one object."""

    __slots__ = ()


class _Known:
    """A distinct call.

    Attributes:
        number: index of the call in the recording, or -1 where it is nothing to write down.
        written: places among the tensors of its arguments that it writes and does not return.
        remake: how to make its result again, or None.
    """

    __slots__ = ("number", "remake", "written")

    def __init__(self, number: int, written: tuple[int, ...], remake: Remake | None) -> None:
        self.number = number
        self.written = written
        self.remake = remake


class StepRecorder(TorchDispatchMode):
    """Records operators while `phase` is set; answers data-dependent questions by `policy` at all times."""

    def __init__(self, module_names: dict[int, str], fakes: Fakes, mode: FakeTensorMode, device: torch.device) -> None:
        """Take the names of modules by `id`, the converter for real tensors met on the way, and where fakes live."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording = Recording()
        self.phase: Phase | None = None
        self.owner_of: dict[int, str] = {}
        self._module_names = module_names
        self._fakes = fakes
        self._results = ResultMaker(mode, device)
        self._stack: list[str] = []
        self._sequence_numbers: list[int] = []
        self._sequence_modules: list[str] = []
        self._last_module = ""
        self._operators: dict[OpOverload, _Operator] = {}
        self._known: dict[tuple[Any, ...], _Known] = {}
        self._slots: dict[tuple[Any, ...], _Slot] = {}
        self._storages: dict[int, int] = {}
        self._kept: list[torch.UntypedStorage] = []
        self._last_writer: dict[int, str] = {}
        self._met_sparse = False

    # ---------------------------------------------------------------------------------------------- storages

    def storage(self, tensor: torch.Tensor) -> int:
        """Number of the storage behind a tensor; the storage is kept alive so that its address stays its own."""
        memory = (tensor if tensor.layout is torch.strided else tensor._values()).untyped_storage()
        number = self._storages.get(memory._cdata)
        if number is None:
            number = len(self._kept)
            self._storages[memory._cdata] = number
            self._kept.append(memory)
            self.recording.dtypes.append(str(tensor.dtype).removeprefix("torch."))
        return number

    def set_role(self, tensor: torch.Tensor, role: TensorRole, name: str = "") -> None:
        """Say what a tensor is to the step; the first role of a storage stays."""
        self.recording.roles.setdefault(self.storage(tensor), (role, name))

    def finish(self) -> Recording:
        """The recording, with the final size of every storage."""
        self.recording.storage_bytes = [memory.nbytes() for memory in self._kept]
        return self.recording

    # ------------------------------------------------------------------------------------------------ modules

    @contextmanager
    def following_modules(self) -> Iterator[None]:
        """Keep track of the module whose forward runs."""
        entering = torch.nn.modules.module.register_module_forward_pre_hook(self._enter)
        leaving = torch.nn.modules.module.register_module_forward_hook(self._leave, always_call=True)
        try:
            yield
        finally:
            entering.remove()
            leaving.remove()

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Act as if the forward of module `name` were running."""
        self._stack.append(name)
        try:
            yield
        finally:
            self._stack.pop()

    def _enter(self, module: torch.nn.Module, args: object) -> None:
        name = self._module_names.get(id(module))
        self._stack.append(name if name is not None else self._stack[-1] if self._stack else "")

    def _leave(self, module: torch.nn.Module, args: object, result: object) -> None:
        self._stack.pop()

    def _place(self) -> tuple[Phase, str]:
        """Phase and module of the operator that runs now."""
        phase = self.phase
        assert phase is not None
        stack = self._stack
        if phase is Phase.FORWARD:
            self._mark(stack[-1] if stack else "")
            return (Phase.FORWARD, stack[-1]) if stack else (Phase.LOSS, "")
        if phase is Phase.OPTIMIZER:
            return phase, ""
        node = torch._C._current_autograd_node()
        # only a recomputed forward runs modules, or builds graph from within a node, in backward
        if stack or (node is not None and torch.is_grad_enabled()):
            module = stack[-1] if stack else self._module_of(node)
            self._mark(module)
            return Phase.RECOMPUTE, module
        if _accumulates_gradient():
            return Phase.ACCUMULATE, self._last_module
        self._last_module = self._module_of(node)
        return Phase.BACKWARD, self._last_module

    def _mark(self, module: str) -> None:
        """Remember the module of the newest autograd node. Numbers only grow: backward runs in this thread too."""
        newest = torch.autograd._get_sequence_nr() - 1  # type: ignore[attr-defined]
        if not self._sequence_numbers or newest > self._sequence_numbers[-1]:
            self._sequence_numbers.append(newest)
            self._sequence_modules.append(module)

    def _module_of(self, node: Any) -> str:
        """Module whose forward made an autograd node. Operators in place make extra nodes: take the next one known."""
        if node is None:
            return self._last_module
        place = bisect_left(self._sequence_numbers, node._sequence_nr())
        return self._sequence_modules[place] if place < len(self._sequence_modules) else self._last_module

    # --------------------------------------------------------------------------------------------- operators

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operator on fake tensors and write it down."""
        if func is _DEVICE:  # asked for more often than anything is computed
            return args[0].fake_device
        kwargs = kwargs or {}
        operator = self._operators.get(func)
        if operator is None:
            operator = self._operators[func] = _Operator(func)
        with torch._C.DisableTorchFunction():
            if func is policy.SCALAR:
                return self._scalar(func, args)
            if operator.constant:
                return func(*args, **kwargs)
            args, kwargs = self._all_fake(args), {name: self._all_fake(value) for name, value in kwargs.items()}
            if operator.multi_tensor:
                return self._run_multi_tensor(func, operator, args, kwargs)
            if operator.refused and self.phase is not None:
                raise policy.DataDependentError(operator.refused)
            if operator.chooses and policy.selects(func, args):
                self._note(f"{operator.name}: as if all elements were selected")
                args, result = policy.selection(func, args, kwargs)
                return self._write_down(func, operator, args, kwargs, result)
            return self._run(func, operator, args, kwargs)

    def _run(self, func: OpOverload, operator: _Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an ordinary operator: by memory where an equal call ran before."""
        tensors: list[torch.Tensor] = []
        key = self._call_key(func, args, kwargs, tensors)
        if self._met_sparse:
            self._met_sparse = False
            if operator.name in sparse.RULES:
                return self._run_sparse(operator, args, kwargs)
        known = self._known.get(key)
        if known is not None and known.remake is not None:
            result = known.remake(tensors)
        else:
            result = self._ask_torch(func, operator, args, kwargs)
            if known is None:
                known = self._known[key] = self._learn(func, operator, args, kwargs, result)
        if self.phase is not None:
            self._add(operator, known, tensors, result)
        return result

    def _run_sparse(self, operator: _Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator on a sparse tensor as the dense operators on its entries, each of which is recorded."""
        if self.phase is not None and operator.name == "aten._coalesce":
            self._note(sparse.KEEPS_ALL)
        rules = sparse.RULES | sparse.ACCUMULATING if _accumulates_gradient() else sparse.RULES
        with self:
            return rules[operator.name](*args, **kwargs)

    def _ask_torch(self, func: OpOverload, operator: _Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Have torch work out the result; one that is only the written argument needs no shape rule."""
        try:
            return func(*args, **kwargs)
        except FakeTensorDeviceMismatchError:  # `torch.from_numpy` asks for no device, and `.to(device)` moves nothing
            args, kwargs = self._results.on_device(args), self._results.on_device(kwargs)
            return func(*args, **kwargs)
        except UnsupportedOperatorException:
            if operator.only_writes and isinstance(args[0], torch.Tensor):
                return args[0]
            raise

    def _run_multi_tensor(
        self, func: OpOverload, operator: _Operator, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run an operator on lists of tensors; it is written down once per entry.

        One that only writes its arguments has no shapes to find out (and torch lacks some of the meta kernels).
        """
        if any(sparse.is_sparse(item) for value in args if isinstance(value, list | tuple) for item in value):
            raise NotImplementedError(sparse.GROWS)
        result = func(*args, **kwargs) if func._schema.returns else None
        for one_args, one_kwargs, one_result in exploded(func, args, kwargs, result):
            self._write_down(func, operator, one_args, one_kwargs, one_result)
        return result

    def _write_down(
        self, func: OpOverload, operator: _Operator, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> Any:
        """Write down a call that has run already."""
        if self.phase is not None:
            tensors: list[torch.Tensor] = []
            key = (self._call_key(func, args, kwargs, tensors), "written down")
            known = self._known.get(key)
            if known is None:
                known = self._known[key] = self._learn(func, operator, args, kwargs, result)
            self._add(operator, known, tensors, result)
        return result

    def _add(self, operator: _Operator, known: _Known, tensors: list[torch.Tensor], result: Any) -> None:
        """Append a record, unless the call is nothing to write down (it still tells which module is running)."""
        phase, module = self._place()
        if known.number < 0:
            return
        inputs = tuple([self.storage(tensor) for tensor in tensors])
        outputs = [self.storage(tensor) for tensor in _tensors_of(result)]
        outputs.extend([inputs[index] for index in known.written])
        if phase is Phase.OPTIMIZER or phase is Phase.ACCUMULATE:
            module = next((self.owner_of[number] for number in inputs if number in self.owner_of), module)
        elif operator.name == "aten.embedding" and self._is_input(inputs[1]):
            self.recording.embedded_inputs.append(tensors[1].numel() if tensors[1].dim() > 1 else 0)
        for output in outputs:
            self._last_writer[output] = operator.name
        self.recording.records.append(Record(known.number, inputs, tuple(outputs), phase, module))

    def _is_input(self, storage: int) -> bool:
        role = self.recording.roles.get(storage)
        return role is not None and role[0] is TensorRole.INPUT

    def _learn(
        self, func: OpOverload, operator: _Operator, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> _Known:
        """What there is to know of a call not seen before."""
        if operator.silent and operator.mutates:
            return _Known(-1, (), None)
        call, inputs, outputs = record_call(func, args, kwargs, result)
        tensors = list(inputs)
        results = _tensors_of(result)
        remake = None
        if not operator.multi_tensor:
            remake = self._results.remake(
                tensors=tensors, result=result, is_view=operator.is_view, mutates=operator.mutates
            )
        storages = {self.storage(tensor) for tensor in tensors}
        only_views = not operator.mutates and all(self.storage(tensor) in storages for tensor in results)
        if operator.silent or (results and only_views):
            return _Known(-1, (), remake)
        places = {id(tensor): index for index, tensor in enumerate(tensors)}
        written = tuple(places[id(tensor)] for tensor in outputs[len(results) :])
        self.recording.calls.append(call)
        return _Known(len(self.recording.calls) - 1, written, remake)

    # ------------------------------------------------------------------------------------------------- values

    def before_call(self, func: Callable[..., Any], tensor: Any) -> None:
        """Refuse what hands values to Python that may become a size: `int(x)` also of a floating-point tensor.

        Raises:
            DataDependentError: torch does not know the values.
        """
        construct = policy.HOST_READS.get(func)
        if construct and self.phase not in (None, Phase.OPTIMIZER) and getattr(tensor, "constant", None) is None:
            raise policy.DataDependentError(construct)

    def _scalar(self, func: OpOverload, args: tuple[Any, ...]) -> Any:
        """A number out of a tensor: the true one where torch knows it, else the policy's."""
        tensor = args[0]
        if not isinstance(tensor, FakeTensor) or tensor.constant is not None:
            return func(*args)
        if self.phase in (None, Phase.OPTIMIZER) and tensor.dtype != torch.bool:
            return _STEPS_DONE if tensor.dtype.is_floating_point else int(_STEPS_DONE)
        answer, note = policy.scalar(tensor, self._last_writer.get(self.storage(tensor), ""))
        self._note(note)
        return answer

    def _note(self, text: str) -> None:
        module = self._stack[-1] if self._stack else ""
        self.recording.notes[f"{text} (in {module or 'the outermost module'})"] += 1

    def _all_fake(self, value: Any) -> Any:
        """Arguments with the real tensors among them (module constants, globals) made fake."""
        kind = type(value)
        if kind is torch.Tensor or kind is torch.nn.Parameter:
            fake = self._fakes(value)
            self.set_role(fake, TensorRole.BUFFER)
            return fake
        if kind is tuple:
            for item in value:
                found = type(item)
                if found is torch.Tensor or found is torch.nn.Parameter or found is list or found is tuple:
                    return tuple([self._all_fake(item) for item in value])
        elif kind is list:
            return [self._all_fake(item) for item in value]
        return value

    def _call_key(
        self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[torch.Tensor]
    ) -> tuple[Any, ...]:
        """A hashable stand-in for a call; its tensors are appended to `tensors`, depth first."""
        key: list[Any] = [func]
        for value in args:
            key.append(self._key(value, tensors))
        for name, value in kwargs.items():
            key.append(name)
            key.append(self._key(value, tensors))
        return tuple(key)

    def _key(self, value: Any, tensors: list[torch.Tensor]) -> Any:
        """A hashable stand-in for an argument. 1, 1.0 and True are equal keys but not equal arguments."""
        if isinstance(value, torch.Tensor):
            tensors.append(value)
            if value.layout is torch.strided:
                shape = (value.shape, value.stride(), value.dtype)
            else:
                self._met_sparse = True
                shape = (value.shape, value._values().shape, value.dtype)
            slot = self._slots.get(shape)
            if slot is None:
                slot = self._slots[shape] = _Slot()
            return slot
        if isinstance(value, list | tuple):
            return tuple([self._key(item, tensors) for item in value])
        return (type(value), value) if isinstance(value, int | float) else value


def _accumulates_gradient() -> bool:
    """Whether autograd is putting a gradient where the parameter keeps it."""
    node = torch._C._current_autograd_node()
    return node is not None and type(node).__name__ == "AccumulateGrad"


def _tensors_of(result: Any) -> list[torch.Tensor]:
    """Tensors of a result, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, list | tuple):
        return [tensor for item in result for tensor in _tensors_of(item)]
    return []
