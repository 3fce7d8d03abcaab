"""Compiles the package's kernels on a tiny graph, so that the first real command does not wait for them.

`python -m worklode.warmup` is the last step of the launcher's first run. Numba keeps what it compiled beside the source
(or in NUMBA_CACHE_DIR) and compiles again what belongs to a changed file when it is next called.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from time import perf_counter

import worklode
from worklode.graph.operator import Access, Operator, OperatorKind, Phase, Tensor, TensorRole
from worklode.graph.training_graph import TrainingGraph, WorkloadInfo
from worklode.graph.work import Product, Work

_LAYERS = 3
_BYTES = 100_000  # of every tensor [bytes]; any size compiles the same kernels

# How this package marks a kernel (the decorators of schedule.compiled and cost.compiled).
_KERNEL = re.compile(r"^@compiled\b.*?^def (\w+)", re.MULTILINE | re.DOTALL)


def compiled_kernels() -> dict[str, int]:
    """How many kernels there are and how many of them numba holds compiled, newer than their source."""
    root = Path(worklode.__file__).parent
    kernels = compiled = 0
    for path in root.rglob("*.py"):
        for name in _KERNEL.findall(path.read_text(encoding="utf-8")):
            kernels += 1
            compiled += any(index.stat().st_mtime >= path.stat().st_mtime for index in _cache_indexes(path, name))
    return {"kernels": kernels, "compiled": compiled}


def tiny_graph() -> TrainingGraph:
    """A training step of three linear layers with activations.

    Weight gradients beside the path of the input gradients make schedulers choose, so that all their policies run.
    """
    graph = _Builder()
    value = graph.tensor(TensorRole.INPUT)
    weights = [graph.tensor(TensorRole.PARAMETER) for _ in range(_LAYERS)]
    inputs = []
    for weight in weights:
        inputs.append(value)
        value = graph.product(Phase.FORWARD, (value, weight), TensorRole.ACTIVATION)
        value = graph.lanes(Phase.FORWARD, (value,), TensorRole.ACTIVATION)
    gradient = graph.lanes(Phase.LOSS, (value,), TensorRole.ACTIVATION_GRADIENT)
    for weight, layer_input in zip(reversed(weights), reversed(inputs), strict=True):
        weight_gradient = graph.product(Phase.BACKWARD, (gradient, layer_input), TensorRole.GRADIENT)
        gradient = graph.product(Phase.BACKWARD, (gradient, weight), TensorRole.ACTIVATION_GRADIENT)
        graph.lanes(Phase.OPTIMIZER, (weight, weight_gradient), TensorRole.PARAMETER)
    info = WorkloadInfo(name="warm-up", parameters=0, trainable_parameters=0, samples=1, tokens=0)
    return TrainingGraph(info=info, tensors=tuple(graph.tensors), operators=tuple(graph.operators))


def tiny_pipeline() -> None:
    """Simulate and bound a pipeline of two stages; a schedule that splits backward calls every kernel."""
    from worklode.schedule.pipeline import PipelineProblem, candidates_of, simulate, simulate_batch
    from worklode.schedule.pipeline_bounds import pipeline_time_bound
    from worklode.schedule.pipeline_orders import parse_schedule

    problem = PipelineProblem(
        num_stages=2,
        num_microbatches=2,
        schedule=parse_schedule("zb-h1"),
        forward_s=(1.0, 1.0),
        input_gradient_s=(1.0, 1.0),
        weight_gradient_s=(1.0, 1.0),
    )
    simulate(problem)
    simulate_batch(candidates_of(problem))
    pipeline_time_bound(candidates_of(problem))


class _Builder:
    """Appends operators of growing size, each with one result of its own storage."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.operators: list[Operator] = []

    def tensor(self, role: TensorRole, producer: int = -1) -> int:
        index = len(self.tensors)
        saved = role is TensorRole.ACTIVATION
        tensor = Tensor(storage=index, bytes=_BYTES, dtype="bfloat16", role=role, producer=producer, saved=saved)
        self.tensors.append(tensor)
        return index

    def product(self, phase: Phase, reads: tuple[int, ...], role: TensorRole) -> int:
        m = 128 * (len(self.operators) + 1)
        product = Product(
            batch=1, m=m, n=512, k=384, a_elements=m * 384, b_elements=512 * 384, c_elements=m * 512, element_bytes=2
        )
        return self._operator(OperatorKind.MATMUL, phase, Work(products=(product,)), reads, role)

    def lanes(self, phase: Phase, reads: tuple[int, ...], role: TensorRole) -> int:
        work = Work(simple_ops=200_000, special_ops=50_000, vector_elements=150_000, reduction_bytes=64)
        return self._operator(OperatorKind.ELEMENTWISE, phase, work, reads, role)

    def _operator(self, kind: OperatorKind, phase: Phase, work: Work, reads: tuple[int, ...], role: TensorRole) -> int:
        written = self.tensor(role, producer=len(self.operators))
        operator = Operator(
            name=f"tiny.{kind}",
            kind=kind,
            phase=phase,
            module="",
            work=work,
            reads=tuple(Access(tensor=index, bytes=_BYTES) for index in reads),
            writes=(Access(tensor=written, bytes=_BYTES),),
        )
        self.operators.append(operator)
        return written


def main() -> int:
    """Mine, evaluate and rank the tiny graph, simulate a tiny pipeline: what real commands call is compiled then."""
    from worklode import api
    from worklode.hardware.presets import load_preset
    from worklode.schedule.canonical_rank import canonical_rank

    start_s = perf_counter()
    graph = tiny_graph()
    for mode in ("split", "uninterrupted", "one-core"):
        api.evaluate(graph, "tpuv2", mode=mode)
        api.mine((graph,), budget="tpuv2", mode=mode)
    canonical_rank(api.evaluator(graph).problem(load_preset("tpuv2")))
    tiny_pipeline()
    counts = compiled_kernels()
    sys.stderr.write(
        f"worklode: {counts['compiled']} of {counts['kernels']} kernels compiled, {perf_counter() - start_s:.1f} s\n"
    )
    return 0


def _cache_indexes(source: Path, function: str) -> list[Path]:
    """Numba's index files of a kernel: `__pycache__/module.function-line.pyXY.nbi`, or anywhere in NUMBA_CACHE_DIR."""
    pattern = f"{source.stem}.{function}-*.py{sys.version_info.major}{sys.version_info.minor}*.nbi"
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return list(Path(chosen).rglob(pattern))
    return list((source.parent / "__pycache__").glob(pattern))


if __name__ == "__main__":
    sys.exit(main())
