"""Gathers and scatters: what is touched is what is looked up, not the table.

A scattered access is one contiguous run of elements; reading one is 1 access, adding to one 2 (read and write).
Indices are data: rows are taken as distinct, up to the size of the table. The accesses under one index of the outer
dimensions stay within a slab; a small slab is read as a whole where that moves less than its scattered accesses do.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from worklode.frontend.call import Call, Description, TensorMeta
from worklode.frontend.operators.rule import (
    Lanes,
    Rule,
    dimension,
    first_output,
    flag,
    in_all,
    in_place,
    integer,
    keyword,
    on_lanes,
    optional_tensor,
    same_rule,
    tensor,
)
from worklode.graph.operator import OperatorKind

GATHER = OperatorKind.GATHER
SCATTER = OperatorKind.SCATTER
MODE_SUM, MODE_MEAN, MODE_MAX = 0, 1, 2  # torch's numbering of embedding_bag's modes


# Bytes HBM moves at once [bytes]: two bursts of 32 B (JESD235 and JESD238), as in docs/models/traffic.md.
ACCESS_BYTES = 64
# Largest slab held on chip to be picked from [bytes]. Assumption: a share of the smallest on-chip memory of the presets
# (NVDLA small, 128 KiB and more).
SLAB_BYTES = 64 * 1024


def _whole(*, slab_bytes: int, accesses: int, run_bytes: int) -> bool:
    """Whether a slab is better moved as a whole than by its `accesses` runs, each rounded up to whole bursts."""
    scattered = accesses * -(-run_bytes // ACCESS_BYTES) * ACCESS_BYTES
    return slab_bytes <= min(SLAB_BYTES, scattered)


def _row(meta: TensorMeta) -> int:
    """Elements of a row of a table."""
    return prod(meta.shape[1:])


def _run(shape: tuple[int, ...], dim: int) -> int:
    """Elements that follow one another under a fixed index of `dim`."""
    return prod(shape[dimension(dim, len(shape)) + 1 :])


def _gather(call: Call, *, moved: int, run: int, slab: int, more: int = 0) -> tuple[Description, ...]:
    """Describe a gather of `moved` elements in runs out of slabs of argument 0; `more` operations on top of moves."""
    source = tensor(call, 0)
    accesses = moved // run if run else 0
    slabs = source.elements // slab if slab else 0
    whole = slabs > 0 and _whole(
        slab_bytes=slab * source.element_bytes,
        accesses=accesses // slabs,
        run_bytes=run * source.element_bytes,
    )
    return on_lanes(
        call,
        GATHER,
        Lanes(moved + more),
        reads={0: source.bytes if whole else moved * source.element_bytes},
        random_accesses=0 if whole else accesses,
        random_access_bytes=run * source.element_bytes,
    )


# ------------------------------------------------------------------------------------------------------ gathers


def embedding(call: Call) -> tuple[Description, ...]:
    """`embedding(table, indices)`: a row per index."""
    table = tensor(call, 0)
    row = _row(table)
    return _gather(call, moved=tensor(call, 1).elements * row, run=row, slab=table.elements)


def index_select(call: Call) -> tuple[Description, ...]:
    """`index_select(x, dim, indices)`: runs behind the dimension."""
    x = tensor(call, 0)
    run = _run(x.shape, integer(call, 1)) if x.shape else 1
    return _gather(call, moved=call.outputs[0].elements, run=run, slab=_slab(x.shape, integer(call, 1)))


def gather(call: Call) -> tuple[Description, ...]:
    """`gather(x, dim, index)`: an access for each run of elements that share an index."""
    dim = integer(call, 1)
    run = _shared_run(tensor(call, 2), dim)
    return _gather(call, moved=call.outputs[0].elements, run=run, slab=_slab(tensor(call, 0).shape, dim))


def take(call: Call) -> tuple[Description, ...]:
    """`take(x, index)`: one access an element."""
    return _gather(call, moved=call.outputs[0].elements, run=1, slab=tensor(call, 0).elements)


def _slab(shape: tuple[int, ...], dim: int) -> int:
    """Elements from `dim` on: what an index along it can reach."""
    return prod(shape[dimension(dim, len(shape)) :]) if shape else 1


def _shared_run(indices: TensorMeta, dim: int) -> int:
    """Elements in a row that share an index, because it is expanded along the last dimensions (but `dim`)."""
    run = 1
    for d in range(len(indices.shape) - 1, dimension(dim, len(indices.shape)) if indices.shape else 0, -1):
        if indices.strides[d] != 0:
            break
        run *= indices.shape[d]
    return run


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexing:
    """Of `index`, `index_put`: elements of a run and of a slab, of masks to be scanned; dimensions up to the last."""

    run: int
    slab: int
    mask_elements: int
    dimensions: int


def _advanced(call: Call) -> Indexing:
    """What the list of indices addresses."""
    x = tensor(call, 0)
    indices = call.args[1]
    assert isinstance(indices, tuple)
    mask_elements, first, indexed, dim = 0, -1, 0, 0
    for index in indices:
        if first < 0 and index is not None:
            first = dim
        if isinstance(index, TensorMeta) and index.dtype in {"bool", "uint8"}:
            mask_elements += index.elements
            dim += len(index.shape)
            indexed = dim
        else:
            dim += 1
            indexed = dim if index is not None else indexed
    slab = prod(x.shape[max(0, first) :])
    return Indexing(run=prod(x.shape[indexed:]), slab=slab, mask_elements=mask_elements, dimensions=indexed)


def index(call: Call) -> tuple[Description, ...]:
    """`index(x, indices)`: runs behind the last dimension indexed; a boolean mask is scanned (3 an element)."""
    at = _advanced(call)
    return _gather(call, moved=call.outputs[0].elements, run=at.run, slab=at.slab, more=3 * at.mask_elements)


# ----------------------------------------------------------------------------------------------------- scatters


def _scatter(
    call: Call, *, moved: int, run: int, slab: int, accumulate: bool, more: int = 0
) -> tuple[Description, ...]:
    """Describe `moved` elements laid into slabs of argument 0 in runs; `more` operations on top of one an element.

    In place only the region is touched, and read only where values are added to it. Out of place the whole is copied
    first.
    """
    x = tensor(call, 0)
    region = moved * x.element_bytes
    accesses = moved // run if run else 0
    slabs = x.elements // slab if slab else 0
    whole = slabs > 0 and _whole(
        slab_bytes=slab * x.element_bytes, accesses=accesses // slabs, run_bytes=run * x.element_bytes
    )
    lanes = Lanes(moved + more + (0 if in_place(call) else x.elements))
    if in_place(call):
        reads, writes = {0: region if accumulate else 0}, {0: region}
    else:
        reads, writes = {}, {}
    return on_lanes(
        call,
        SCATTER,
        lanes,
        reads=reads,
        writes=writes,
        random_accesses=0 if whole else accesses * (2 if accumulate else 1),
        random_access_bytes=run * x.element_bytes,
    )


def index_put(call: Call) -> tuple[Description, ...]:
    """`index_put(x, indices, values, accumulate)`: as many elements as the indices address, whatever values has."""
    x = tensor(call, 0)
    at = _advanced(call)
    indices = call.args[1]
    assert isinstance(indices, tuple)
    shapes = [(i.elements,) if i.dtype in {"bool", "uint8"} else i.shape for i in indices if isinstance(i, TensorMeta)]
    addressed = prod(_broadcast(shapes))
    masked = at.mask_elements > 0
    free = 1 if masked else prod(x.shape[d] for d, i in enumerate(indices[: at.dimensions]) if i is None)
    moved = addressed * free * at.run
    return _scatter(call, moved=moved, run=at.run, slab=at.slab, accumulate=flag(call, 3), more=3 * at.mask_elements)


def _broadcast(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    rank = max((len(s) for s in shapes), default=0)
    padded = [(1,) * (rank - len(s)) + s for s in shapes]
    return tuple(0 if 0 in sizes else max(sizes) for sizes in zip(*padded, strict=True))


def scatter(call: Call) -> tuple[Description, ...]:
    """`scatter(x, dim, index, src)`: an access for each run of elements that share an index, two where it reduces."""
    indices = tensor(call, 2)
    accumulate = call.packet.strip("_") != "scatter" or "reduce" in call.name
    dim = integer(call, 1)
    slab = _slab(tensor(call, 0).shape, dim)
    return _scatter(call, moved=indices.elements, run=_shared_run(indices, dim), slab=slab, accumulate=accumulate)


def index_add(call: Call) -> tuple[Description, ...]:
    """`index_add(x, dim, index, src)`, `index_copy`, `index_reduce`, `index_fill`: runs behind the dimension.

    A factor `alpha` is one multiply an element.
    """
    x = tensor(call, 0)
    dim = integer(call, 1)
    run = _run(x.shape, dim) if x.shape else 1
    along = x.shape[dimension(dim, len(x.shape))] if x.shape else 1
    moved = x.elements // along * tensor(call, 2).elements if along else 0
    accumulate = call.packet.strip("_") in {"index_add", "index_reduce"}
    scaled = moved * (keyword(call, "alpha", 1) != 1)
    return _scatter(call, moved=moved, run=run, slab=_slab(x.shape, dim), accumulate=accumulate, more=scaled)


def put(call: Call) -> tuple[Description, ...]:
    """`put(x, index, src, accumulate)`: one access an element."""
    slab = tensor(call, 0).elements
    return _scatter(call, moved=tensor(call, 1).elements, run=1, slab=slab, accumulate=flag(call, 3))


def masked_scatter(call: Call) -> tuple[Description, ...]:
    """`masked_scatter(x, mask, src)`: the mask is scanned (3 an element), then a select per element."""
    mask = tensor(call, 1)
    elements = call.outputs[0].elements
    return on_lanes(call, SCATTER, Lanes(3 * mask.elements + elements))


# --------------------------------------------------------------------------------------------------- embeddings


def _dense_gradient(call: Call, *, row: int, indices: int, per_element: int, extra: Lanes) -> tuple[Description, ...]:
    """Describe a dense table gradient: zeros everywhere, then rows added to where they were looked up.

    The table is written once; the rows are read and written again where they are added to, which the random accesses
    count and the compulsory bytes do not.
    """
    result = first_output(call)
    assert result is not None
    row_bytes = row * result.element_bytes
    whole = _whole(slab_bytes=result.bytes, accesses=indices, run_bytes=row_bytes)
    return on_lanes(
        call,
        SCATTER,
        in_all(Lanes(result.elements + per_element * indices * row), extra),
        random_accesses=0 if whole else 2 * indices,
        random_access_bytes=row_bytes,
    )


def embedding_gradient(call: Call) -> tuple[Description, ...]:
    """`embedding_dense_backward(grad, indices, ...)`: an add an element, a division by frequency where asked for."""
    grad, indices = tensor(call, 0), tensor(call, 1).elements
    by_frequency = flag(call, 4)
    extra = Lanes(3 * indices, indices) if by_frequency else Lanes()
    return _dense_gradient(call, row=grad.shape[-1], indices=indices, per_element=1 + by_frequency, extra=extra)


def sparse_embedding_gradient(call: Call) -> tuple[Description, ...]:
    """Gradient of an embedding as (indices, rows): a move an element."""
    return on_lanes(call, SCATTER, Lanes(tensor(call, 0).elements))


def embedding_bag(call: Call) -> tuple[Description, ...]:
    """`_embedding_bag(table, indices, offsets, ...)`: rows added (or compared) into bags, one multiply for a mean.

    Sample weights multiply every element looked up. The bookkeeping results have one entry per index or bag.
    """
    table, indices = tensor(call, 0), tensor(call, 1).elements
    row = _row(table)
    result = call.outputs[0]
    mode = integer(call, 4)
    weights = 1 if optional_tensor(call, 6) is not None else 0
    compare = 1 if mode == MODE_MAX else 0  # the index of the maximum is selected too
    more = (weights + compare) * indices * row + (result.elements if mode == MODE_MEAN else 0)
    bookkeeping = sum(t.elements for t in call.outputs[1:])
    return _gather(call, moved=indices * row, run=row, slab=table.elements, more=more + bookkeeping)


def embedding_bag_gradient(call: Call) -> tuple[Description, ...]:
    """`_embedding_bag_dense_backward`: the bag's gradient added to each of its rows, scaled by weight or mean."""
    grad, indices = tensor(call, 0), tensor(call, 1).elements
    mode = integer(call, 7)
    scaled = mode == MODE_MEAN or optional_tensor(call, 8) is not None
    rows = grad.shape[0] if mode == MODE_MAX else indices
    return _dense_gradient(
        call, row=grad.shape[-1], indices=rows, per_element=1 + scaled, extra=Lanes(0, indices * (mode == MODE_MEAN))
    )


def embedding_bag_any_gradient(call: Call) -> tuple[Description, ...]:
    """`_embedding_bag_backward` where it is not taken apart: dense, or as sparse rows of the bag's gradient.

    Sparse rows are the bags' gradients by `offset2bag`, in order; the indices become those of the result unread, and
    of the bookkeeping only a mean needs the sizes.
    """
    grad, indices = tensor(call, 0), tensor(call, 1).elements
    mode = integer(call, 8)
    scaled = mode == MODE_MEAN or optional_tensor(call, 10) is not None
    divisions = Lanes(0, indices * (mode == MODE_MEAN))
    if flag(call, 9):
        unread = {1: 0, 2: 0, 5: 0} | ({} if mode == MODE_MEAN else {4: 0})
        return on_lanes(call, SCATTER, in_all(Lanes((1 + scaled) * indices * grad.shape[-1]), divisions), reads=unread)
    rows = grad.shape[0] if mode == MODE_MAX else indices
    return _dense_gradient(call, row=grad.shape[-1], indices=rows, per_element=1 + scaled, extra=divisions)


def sample_weight_gradient(call: Call) -> tuple[Description, ...]:
    """`_embedding_bag_per_sample_weights_backward`: a dot product of bag gradient and table row per index."""
    table, indices = tensor(call, 1), tensor(call, 2).elements
    row = _row(table)
    return on_lanes(
        call,
        GATHER,
        Lanes(2 * indices * row),
        reads={1: indices * row * table.element_bytes},
        random_accesses=indices,
        random_access_bytes=row * table.element_bytes,
    )


RULES: dict[str, Rule] = {
    "embedding": embedding,
    "index_select": index_select,
    "gather": gather,
    "take": take,
    **same_rule(index, "index", "_unsafe_index"),
    **same_rule(index_put, "index_put", "_index_put_impl", "_unsafe_index_put"),
    **same_rule(scatter, "scatter", "scatter_add", "scatter_reduce"),
    **same_rule(index_add, "index_add", "index_copy", "index_fill", "index_reduce"),
    "put": put,
    "masked_scatter": masked_scatter,
    "embedding_dense_backward": embedding_gradient,
    **same_rule(sparse_embedding_gradient, "embedding_sparse_backward", "_embedding_bag_sparse_backward"),
    **same_rule(embedding_bag, "_embedding_bag", "_embedding_bag_forward_only"),
    "_embedding_bag_dense_backward": embedding_bag_gradient,
    "_embedding_bag_backward": embedding_bag_any_gradient,
    "_embedding_bag_per_sample_weights_backward": sample_weight_gradient,
}
