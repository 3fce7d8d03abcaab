"""Sparse gradients of embeddings: the operators on their entries against torch's own kernels, and whole steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra of the package")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from worklode.errors import CaptureError  # noqa: E402
from worklode.frontend import CaptureOptions, capture_module, sparse  # noqa: E402
from worklode.graph.memory import memory_footprint  # noqa: E402
from worklode.graph.operator import Operator, Phase, TensorRole  # noqa: E402
from worklode.graph.training_graph import TrainingGraph  # noqa: E402
from worklode.graph.validate import graph_faults  # noqa: E402

ROWS, WIDTH, BATCH, IDS = 5000, 8, 6, 3
LOOKED_UP = BATCH * IDS
entries = st.lists(st.integers(0, 9), min_size=1, max_size=20)


def gradient(rows: list[int]) -> Tensor:
    """A gradient of a table of 10 rows of 3, with an entry for every one of `rows`."""
    values = torch.arange(3.0 * len(rows), dtype=torch.float64).reshape(-1, 3) + 1
    made: Tensor = torch.sparse_coo_tensor(torch.tensor([rows]), values, (10, 3), check_invariants=True)
    return made


@given(entries, entries, st.sampled_from((1.0, -0.5)))
def test_what_is_written_out_computes_what_torch_computes(a: list[int], b: list[int], alpha: float) -> None:
    one, other, table = gradient(a), gradient(b), torch.ones(10, 3, dtype=torch.float64)
    rules: dict[str, Callable[..., Tensor]] = sparse.RULES
    cases = (
        (rules["aten.clone"](one), one),
        (rules["aten.detach"](one), one),
        (rules["aten.mul"](one, alpha), one * alpha),
        (rules["aten.neg"](one), -one),
        (rules["aten.add"](one, other, alpha=alpha), torch.add(one, other, alpha=alpha)),
        (rules["aten.add"](table, other, alpha=alpha), torch.add(table, other, alpha=alpha)),
        (rules["aten.add_"](table.clone(), other, alpha=alpha), table.clone().add_(other, alpha=alpha)),
    )
    for found, expected in cases:
        assert torch.equal(found.to_dense(), expected.to_dense())
    joined = sparse.ACCUMULATING["aten.add_"](one, other)
    assert joined is one
    assert torch.equal(joined.to_dense(), (gradient(a) + other).to_dense())
    assert joined._nnz() == len(a) + len(b)
    assert sparse.ACCUMULATING["aten.clone"](other)._values().data_ptr() == other._values().data_ptr()


class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table: nn.Module = nn.EmbeddingBag(ROWS, WIDTH, mode="sum", sparse=True)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, ids: Tensor) -> Any:
        return self.head(self.table(ids))


class Words(Bags):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(ROWS, WIDTH, sparse=True)


def step(module: type[nn.Module], **options: Any) -> TrainingGraph:
    ids = torch.zeros(BATCH, IDS, dtype=torch.long)
    graph = capture_module(module, ids, options=CaptureOptions(dtype="fp32", **options))
    assert graph_faults(graph) == []
    return graph


def updates(graph: TrainingGraph) -> list[Operator]:
    return [o for o in graph.operators if o.phase is Phase.OPTIMIZER and o.module == "table"]


@pytest.mark.parametrize("module", [Bags, Words])
@pytest.mark.parametrize("microbatches", [1, 2, 3])
def test_sgd_touches_the_rows_looked_up(module: type[nn.Module], microbatches: int) -> None:
    """Nothing is copied on the way; entries of microbatches are joined, and added to the table in one go."""
    graph = step(module, optimizer="sgd", accumulation_steps=microbatches)
    (update,) = updates(graph)
    found = microbatches * LOOKED_UP
    size = found * WIDTH * 4
    assert update.name == "aten.index_add_"
    assert [access.bytes for access in update.reads] == [size, 8 * found, size]
    assert [access.bytes for access in update.writes] == [size]
    assert (update.work.random_accesses, update.work.random_access_bytes) == (2 * found, 4 * WIDTH)
    joining = [o.name for o in graph.operators if o.phase is Phase.ACCUMULATE and o.module == "table"]
    assert joining == ["aten.cat"] * 2 * (microbatches - 1)
    assert graph.info.notes == ()


def test_the_gradient_takes_the_memory_of_its_entries() -> None:
    graph = step(Bags, optimizer="sgd")
    assert memory_footprint(graph).gradients == 4 * LOOKED_UP * WIDTH + 4 * (WIDTH + 1)
    of_table = [t for t in graph.tensors if t.role is TensorRole.GRADIENT and t.name == "table.weight"]
    assert [t.bytes for t in of_table] == [4 * LOOKED_UP * WIDTH]
    assert {t.role for t in graph.tensors if t.bytes >= 4 * ROWS * WIDTH} == {TensorRole.PARAMETER}


def test_torch_takes_over_a_sparse_gradient_without_a_copy() -> None:
    """What `sparse.ACCUMULATING` says, on a real step: the indices are the ids themselves, nothing is cloned."""
    module, ids = nn.EmbeddingBag(ROWS, WIDTH, mode="sum", sparse=True), torch.arange(LOOKED_UP)
    value = module(ids, torch.arange(0, LOOKED_UP, IDS)).sum()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
        value.backward()
    assert module.weight.grad is not None
    assert module.weight.grad._indices().data_ptr() == ids.data_ptr()
    names = {event.name for event in profiled.events()}
    assert "aten::_embedding_bag_backward" in names
    assert "aten::clone" not in names


@pytest.mark.parametrize(
    ("optimizer", "said"), [("sgd-momentum", "gains entries with every step"), ("adamw", "does not support sparse")]
)
def test_an_optimizer_that_takes_no_sparse_gradients_is_refused_by_name(optimizer: str, said: str) -> None:
    with pytest.raises(CaptureError, match=said):
        step(Bags, optimizer=optimizer)
