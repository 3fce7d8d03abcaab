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
    """A training step of one linear layer with an activation: a product and lane work in every phase."""
    product = Product(batch=1, m=8, n=16, k=32, a_elements=256, b_elements=512, c_elements=128, element_bytes=2)
    lanes = Work(simple_ops=512, special_ops=128, vector_elements=640, reduction_bytes=64)
    roles = (TensorRole.INPUT, TensorRole.PARAMETER, TensorRole.ACTIVATION, TensorRole.ACTIVATION, TensorRole.GRADIENT)
    tensors = tuple(
        Tensor(storage=i, bytes=1024, dtype="bfloat16", role=role, producer=max(-1, i - 2), saved=i == 2)
        for i, role in enumerate((*roles, TensorRole.PARAMETER))
    )

    def operator(kind: OperatorKind, phase: Phase, work: Work, reads: tuple[int, ...], write: int) -> Operator:
        return Operator(
            name=f"tiny.{kind}",
            kind=kind,
            phase=phase,
            module="",
            work=work,
            reads=tuple(Access(tensor=index, bytes=1024) for index in reads),
            writes=(Access(tensor=write, bytes=1024),),
        )

    matrix = Work(products=(product,))
    operators = (
        operator(OperatorKind.MATMUL, Phase.FORWARD, matrix, (0, 1), 2),
        operator(OperatorKind.ELEMENTWISE, Phase.FORWARD, lanes, (2,), 3),
        operator(OperatorKind.MATMUL, Phase.BACKWARD, matrix, (2, 3), 4),
        operator(OperatorKind.OPTIMIZER, Phase.OPTIMIZER, lanes, (1, 4), 5),
    )
    info = WorkloadInfo(name="warm-up", parameters=512, trainable_parameters=512, samples=8, tokens=0)
    return TrainingGraph(info=info, tensors=tensors, operators=operators)


def main() -> int:
    """Mine and evaluate the tiny graph: what real commands call is compiled then."""
    from worklode import api

    start_s = perf_counter()
    graph = tiny_graph()
    for mode in ("split", "one-core"):
        api.evaluate(graph, "tpuv2", mode=mode)
        api.mine((graph,), budget="tpuv2", mode=mode)
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
