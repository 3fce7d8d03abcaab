"""Random training graphs for property tests: sound by construction, odd in structure."""

from __future__ import annotations

from hypothesis import strategies as st

from worklode.graph.operator import OperatorKind, Phase, TensorRole
from worklode.graph.training_graph import Block, TrainingGraph
from worklode.graph.work import AXES, Collective, Communication, Work

from .builders import GraphBuilder

ROWS, WIDTH = 8, 4
SIZES = (ROWS * WIDTH, ROWS * WIDTH, ROWS * WIDTH, ROWS, WIDTH, 1)

ACTIONS = (
    "elementwise",
    "elementwise",
    "elementwise",
    "two operands",
    "two operands",
    "broadcast",
    "matmul",
    "batched matmul",
    "reduction",
    "normalization",
    "softmax",
    "in place",
    "in place",
    "partial write",
    "slice",
    "concatenate",
    "gather",
    "attention",
    "row statistic",
    "update",
    "collective",
    "parameter",
    "phase",
    "block",
    "unread bytes",
)


@st.composite
def graphs(draw: st.DrawFn, max_operators: int = 24) -> TrainingGraph:
    """A sound graph of up to `max_operators` operators."""
    b = GraphBuilder()
    b.blocks = [Block(path="layers", first=0, count=2)]
    live = [b.given(draw(st.sampled_from(SIZES)), draw(st.sampled_from([TensorRole.INPUT, TensorRole.PARAMETER])))]
    live.append(b.given(ROWS * WIDTH, TensorRole.PARAMETER, "w"))
    for _ in range(draw(st.integers(0, max_operators))):
        _act(draw, b, live, draw(st.sampled_from(ACTIONS)))
    return b.graph()


def _act(draw: st.DrawFn, b: GraphBuilder, live: list[int], action: str) -> None:
    """One step; `live` holds the newest version of every storage."""
    read = draw(st.sampled_from(live[-6:] if draw(st.booleans()) else live))
    size = b.elements(read)
    same = [t for t in live if b.elements(t) == size]
    other = draw(st.sampled_from(same))
    match action:
        case "elementwise":
            live.append(b.elementwise(read, name="gelu", special=1))
        case "two operands":
            live.append(b.elementwise(read, other))
        case "broadcast":
            live.append(b.elementwise(read, draw(st.sampled_from(live))))
        case "matmul" if size == ROWS * WIDTH:
            live.append(b.matmul(read, other, ROWS, WIDTH, WIDTH))
        case "batched matmul" if size == ROWS * WIDTH:
            live.append(b.matmul(read, other, WIDTH, WIDTH, WIDTH, batch=ROWS // WIDTH))
        case "reduction":
            live.append(b.reduction(read, draw(st.sampled_from([s for s in SIZES if size % s == 0]))))
        case "normalization" if size == ROWS * WIDTH:
            live.append(b.layer_norm(read, WIDTH))
        case "softmax" if size == ROWS * WIDTH:
            live.append(b.softmax(read, WIDTH))
        case "in place":
            live[live.index(read)] = b.in_place(read, other) if other != read else b.in_place(read)
        case "partial write":
            _write_part(b, live, read)
        case "slice" if size % 2 == 0:
            work = Work(simple_ops=size // 2, vector_elements=size)
            live.extend(b.op("slice", OperatorKind.MOVEMENT, ((read, size // 2),), (size // 2,), work=work))
        case "concatenate":
            work = Work(simple_ops=2 * size, vector_elements=4 * size)
            live.extend(b.op("cat", OperatorKind.MOVEMENT, (read, other), (2 * size,), work=work))
        case "gather":
            work = Work(random_accesses=size, random_access_bytes=2, vector_elements=2 * size)
            live.extend(b.op("gather", OperatorKind.GATHER, (read,), (size,), work=work))
        case "attention" if size == ROWS * WIDTH:
            live.append(_attention(draw, b, read, other))
        case "row statistic" if size == ROWS * WIDTH:
            statistic = b.elementwise(b.reduction(b.elementwise(read), ROWS))
            live.extend([statistic, b.elementwise(read, statistic)])
        case "update":
            b.phase = Phase.OPTIMIZER
            b.in_place(b.parameter(size, f"w{len(b.tensors)}"), read)
        case "collective":
            communication = Communication(
                collective=draw(st.sampled_from(list(Collective))),
                bytes=b.tensors[read].bytes,
                axis=draw(st.sampled_from(AXES)),
                devices=draw(st.integers(1, 8)),
            )
            work = Work(communication=communication)
            live.extend(b.op("collective", OperatorKind.COLLECTIVE, (read,), (size,), work=work))
        case "parameter":
            live.append(b.given(draw(st.sampled_from(SIZES)), draw(st.sampled_from(list(TensorRole)))))
        case "phase":
            b.phase = draw(st.sampled_from(list(Phase)))
        case "block":
            b.block, b.instance = draw(st.sampled_from([(-1, -1), (0, 0), (0, 1)]))
        case "unread bytes":
            live.extend(b.op("zeros_like", OperatorKind.ELEMENTWISE, ((read, 0),), (size,), work=Work(simple_ops=size)))
        case _:
            live.append(b.elementwise(read))


def _attention(draw: st.DrawFn, b: GraphBuilder, query: int, key: int) -> int:
    """Scores wider than their operands, a row-wise operator, context; with neighbours here and there."""
    heads, length, width = 2, ROWS, WIDTH // 2
    scores = b.matmul(query, key, length, length, width, batch=heads)
    if draw(st.booleans()):
        scores = b.elementwise(scores)
    scores = b.softmax(scores, length)
    if draw(st.booleans()):
        scores, _ = b.dropout(scores)
    if draw(st.booleans()):
        b.matmul(scores, query, length, width, length, batch=heads)
    return b.matmul(scores, key, length, width, length, batch=heads)


def _write_part(b: GraphBuilder, live: list[int], old: int) -> None:
    """A write into half of a storage, which reads nothing of it: the other half shows through."""
    size = b.elements(old)
    after = (b.tensors[old].producer,) if b.tensors[old].producer >= 0 else ()
    b.op("copy_", OperatorKind.MOVEMENT, (), work=Work(simple_ops=size), over=(old,), after=after)
    new = len(b.tensors) - 1
    b.narrow_last_write(size // 2)
    live[live.index(old)] = new
