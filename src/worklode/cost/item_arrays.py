"""Work items as arrays, built once per workload: what the cost kernels read (docs/models/operator_costs.md)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from worklode.cost.compiled import Floats, Ints
from worklode.cost.traffic import PATCH_A, PATCH_B, PATCH_C, PATCH_NONE, random_access_bytes
from worklode.errors import InternalError
from worklode.graph.work import PatchOperand, Product, Work, WorkItem
from worklode.hardware.design import LANE_BYTES

_PATCH_CODE = {
    PatchOperand.NONE: PATCH_NONE,
    PatchOperand.A: PATCH_A,
    PatchOperand.B: PATCH_B,
    PatchOperand.C: PATCH_C,
}
# Results one step of a fused operator hands from the tensor cores to the lanes [elements], and the most steps that are
# counted. Assumption: a 256 x 256 block, small against the operators that matter, so that products and lane work of one
# operator overlap but for the first block.
PIPELINE_STEP_RESULTS = 65536
MOST_PIPELINE_STEPS = 64
# Shortest edge up to which lanes may compute a product [elements]: so many partial sums or held operands fit into the
# registers of a lane, so that each matrix passes the port once. 32 registers: Norrie et al., The Design Process for
# Google's Training Chips, IEEE Micro 2021 (a GPU's thread has 255). On the presets no product of the zoo with a longer
# edge would gain (docs/models/vector_core.md).
NARROW_EDGE = 32
# Lane operations of a multiply-accumulate: multiply and add, as docs/models/operators.md counts them [operations].
LANE_OPS_PER_MAC = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProductArrays:
    """W distinct products with at least one multiply-accumulate; an operand shared by a batch is folded into m or n.

    Attributes:
        batch, m, n, k, element_bytes: [W] sizes.
        a_elements, b_elements, c_elements: [W] distinct elements behind the operands of one product of the batch.
        patch, window: [W] operand of patches and taps.
        masked, span: [W] masked share and the shorter edge of the masked matrix.
    """

    batch: Ints
    m: Ints
    n: Ints
    k: Ints
    element_bytes: Ints
    a_elements: Floats
    b_elements: Floats
    c_elements: Floats
    patch: Ints
    window: Ints
    masked: Floats
    span: Floats

    @property
    def macs(self) -> Floats:
        """[W] multiply-accumulates, masked ones included."""
        return self.batch.astype(np.float64) * self.m * self.n * self.k


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionArrays:
    """T items whose products are chained. `item` is the index of the item; the others as in cost.attention."""

    item: Ints
    groups: Floats
    queries: Floats
    keys: Floats
    dim_qk: Floats
    dim_v: Floats
    element_bytes: Floats
    products: Ints
    visible: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ItemArrays:
    """U work items.

    Attributes:
        products, attentions: their distinct products and fused attentions.
        product_start, product: CSR of the products of each item, [U + 1] and indices into `products`.
        chained: [U] index into `attentions`, -1 where the products are not chained.
        simple_ops, special_ops: [U] lane work.
        reduces: [U] 1 where results are reduced across lanes.
        serial_steps: [U] dependent steps.
        has_lanes: [U] 1 where vector cores have work.
        collectives: [T] indices of the items that are collectives, which no core computes.
        fixed_bytes: [U] HBM bytes under any tiling: every operand once, scattered accesses rounded up.
        reduction_bytes: [U] group that must stay on chip; `reduction_reread` bytes more where it does not fit.
        lane_sram_bytes: [U] traffic between SRAM and vector cores.
        steps: [U] steps in which products and lane work of the item are pipelined.
        suits_lanes: [U] 1 where the lanes may compute the products instead of the arrays.
        alone_simple_ops, alone_reduces, alone_sram_bytes: [U] lane work, reduction and traffic between SRAM and vector
            cores where they do: with the products. Those of the lane work alone where there are none.
    """

    products: ProductArrays
    attentions: AttentionArrays
    product_start: Ints
    product: Ints
    chained: Ints
    simple_ops: Floats
    special_ops: Floats
    reduces: Ints
    serial_steps: Ints
    has_lanes: Ints
    collectives: Ints
    fixed_bytes: Floats
    reduction_bytes: Floats
    reduction_reread: Floats
    lane_sram_bytes: Floats
    steps: Floats
    suits_lanes: Ints
    alone_simple_ops: Floats
    alone_reduces: Ints
    alone_sram_bytes: Floats

    def __len__(self) -> int:
        return len(self.chained)


def item_arrays(items: Sequence[WorkItem]) -> ItemArrays:
    """Arrays of work items.

    Raises:
        InternalError: an item has a negative size, or more bytes or products than it can have.
    """
    for index, item in enumerate(items):
        _check(index, item)
    distinct: dict[Product, int] = {}
    product_of = [[distinct.setdefault(p, len(distinct)) for p in _real_products(item)] for item in items]
    chained = [index for index, item in enumerate(items) if item.work.chained and product_of[index]]
    position = {index: at for at, index in enumerate(chained)}
    works = [item.work for item in items]
    reduces = np.array([w.reduction_bytes > 0 and not w.chained for w in works], np.int64)
    moved = (w.vector_elements * _lane_element_bytes(item) for w, item in zip(works, items, strict=True))
    lane_sram_bytes = _floats(moved)
    on_lanes = [_products_on_lanes(item) for item in items]
    suits_lanes = np.array([len(found) > 0 for found in on_lanes], np.int64)
    return ItemArrays(
        products=_product_arrays(list(distinct)),
        attentions=_attention_arrays(items, chained),
        product_start=np.concatenate(([0], np.cumsum([len(p) for p in product_of]))).astype(np.int64),
        product=np.array([p for found in product_of for p in found], np.int64),
        chained=np.array([position.get(index, -1) for index in range(len(items))], np.int64),
        simple_ops=_floats(w.simple_ops for w in works),
        special_ops=_floats(w.special_ops for w in works),
        reduces=reduces,
        serial_steps=np.array([w.serial_steps for w in works], np.int64),
        has_lanes=np.array(
            [w.simple_ops + w.special_ops + w.vector_elements + w.serial_steps > 0 for w in works], np.int64
        ),
        collectives=np.array([i for i, w in enumerate(works) if w.communication is not None], np.int64),
        fixed_bytes=_floats(
            item.read_bytes
            + item.write_bytes
            + random_access_bytes(item.work.random_accesses, item.work.random_access_bytes)
            for item in items
        ),
        reduction_bytes=_floats(0 if w.chained else w.reduction_bytes for w in works),
        reduction_reread=_floats(_reduction_reread(item) for item in items),
        lane_sram_bytes=lane_sram_bytes,
        steps=_floats(_pipeline_steps(item) for item in items),
        suits_lanes=suits_lanes,
        alone_simple_ops=_floats(
            w.simple_ops + sum(LANE_OPS_PER_MAC * p.batch * p.m * p.n * p.k for p in found)
            for w, found in zip(works, on_lanes, strict=True)
        ),
        # Sums along k may be spread over lanes: one tree, as in any reduction.
        alone_reduces=np.maximum(reduces, [any(p.k > 1 for p in found) for found in on_lanes]).astype(np.int64),
        alone_sram_bytes=lane_sram_bytes
        + _floats(
            sum(p.batch * (p.m * p.k + p.k * p.n + p.m * p.n) * min(LANE_BYTES, p.element_bytes) for p in found)
            for found in on_lanes
        ),
    )


def _floats(values: Iterable[float]) -> Floats:
    return np.array(list(values), np.float64)


def _check(index: int, item: WorkItem) -> None:
    work = item.work
    sizes = [item.read_bytes, item.write_bytes, work.simple_ops, work.special_ops, work.vector_elements]
    sizes += [work.reduction_bytes, work.random_accesses, work.random_access_bytes, work.serial_steps]
    for p in work.products:
        sizes += [p.batch, p.m, p.n, p.k, p.a_elements, p.b_elements, p.c_elements]
        if p.element_bytes < 1 or p.window < 1 or not 0.0 <= p.masked_fraction < 1.0:
            raise InternalError(f"work item {index}: impossible element size, window or masked fraction in {p}")
        if p.flops and 0 in (p.a_elements, p.b_elements, p.c_elements):
            raise InternalError(f"work item {index}: a product without elements behind an operand: {p}")
    if work.communication is not None and work != Work(communication=work.communication):
        raise InternalError(f"work item {index} is a collective that computes: {item}")
    if min(sizes) < 0:
        raise InternalError(f"work item {index} has a negative size: {item}")


def _real_products(item: WorkItem) -> list[Product]:
    return [_fold_shared(p) for p in item.work.products if p.flops]


def _products_on_lanes(item: WorkItem) -> list[Product]:
    """The products of an item where lanes may compute them all, else none: narrow, without a mask, not chained.

    Chains and masks are left to the arrays: what of them is executed depends on the tiles of the arrays.
    """
    found = [] if item.work.chained else _real_products(item)
    return found if all(min(p.m, p.n, p.k) <= NARROW_EDGE and p.masked_fraction == 0.0 for p in found) else []


def _fold_shared(product: Product) -> Product:
    """One operand shared by groups of the batch: the others' rows (or columns) follow one another as one product."""
    if product.patch is not PatchOperand.NONE or product.batch == 1:
        return product
    shared_b = product.batch * product.k * product.n // product.b_elements
    shared_a = product.batch * product.m * product.k // product.a_elements
    for shared, wider in ((shared_b, "m"), (shared_a, "n")):
        if shared > 1 and product.batch % shared == 0:
            m, n = (product.m * shared, product.n) if wider == "m" else (product.m, product.n * shared)
            return Product(
                batch=product.batch // shared,
                m=m,
                n=n,
                k=product.k,
                a_elements=product.a_elements,
                b_elements=product.b_elements,
                c_elements=product.c_elements,
                element_bytes=product.element_bytes,
                masked_fraction=product.masked_fraction,
            )
    return product


def _product_arrays(products: list[Product]) -> ProductArrays:
    def ints(name: str) -> Ints:
        return np.array([getattr(p, name) for p in products], np.int64)

    batch, m, n, k = (ints(name) for name in ("batch", "m", "n", "k"))
    patch = np.array([_PATCH_CODE[p.patch] for p in products], np.int64)

    def elements(name: str, code: int, rows: Ints, cols: Ints) -> Floats:
        # A plain operand is counted by its tiles; what a batch shares was folded away.
        whole = rows.astype(np.float64) * cols
        return np.where(patch == code, np.minimum(ints(name) / np.maximum(batch, 1), whole), whole)

    return ProductArrays(
        batch=batch,
        m=m,
        n=n,
        k=k,
        element_bytes=ints("element_bytes"),
        a_elements=elements("a_elements", PATCH_A, m, k),
        b_elements=elements("b_elements", PATCH_B, k, n),
        c_elements=elements("c_elements", PATCH_C, m, n),
        patch=patch,
        window=ints("window"),
        masked=_floats(p.masked_fraction for p in products),
        # The masked matrix is spanned by two of m, n and k; the third, a head dimension, is usually the least.
        span=np.sort(np.stack([m, n, k]), axis=0)[1].astype(np.float64) if products else np.empty(0),
    )


def _attention_arrays(items: Sequence[WorkItem], chained: list[int]) -> AttentionArrays:
    """The first product of a chain is scores = Q·Kᵀ or their gradient; the second holds the other width.

    That width is n where the second product reduces over the keys (context, or the gradient of the queries), and k
    where it makes a matrix of scores again (backward of fused attention).
    """
    products = [items[index].work.products for index in chained]
    seconds = [p[1] if len(p) > 1 else p[0] for p in products]
    return AttentionArrays(
        item=np.array(chained, np.int64),
        groups=_floats(p[0].batch for p in products),
        queries=_floats(p[0].m for p in products),
        keys=_floats(p[0].n for p in products),
        dim_qk=_floats(p[0].k for p in products),
        dim_v=_floats(s.k if s.n == p[0].n else s.n for p, s in zip(products, seconds, strict=True)),
        element_bytes=_floats(p[0].element_bytes for p in products),
        products=np.array([len(p) for p in products], np.int64),
        visible=_floats(1.0 - p[0].masked_fraction for p in products),
    )


def _reduction_reread(item: WorkItem) -> float:
    """Bytes moved once more where a group to be reduced does not fit on chip [bytes].

    A vector operator reads its input again; results of products are spilled and read back rather than computed again.
    Where nothing is computed nothing is reduced.
    """
    work = item.work
    if not _real_products(item) and work.simple_ops + work.special_ops + work.vector_elements + work.serial_steps == 0:
        return 0.0
    results = sum(p.c_elements * p.element_bytes for p in item.work.products)
    return 2.0 * results if item.work.products else float(item.read_bytes)


def _lane_element_bytes(item: WorkItem) -> float:
    """Bytes of an element on its way between SRAM and the lanes [bytes]: what is known of its type, at most 4."""
    if item.work.products:
        return min(float(LANE_BYTES), float(item.work.products[0].element_bytes))
    moved = item.read_bytes + item.write_bytes
    return min(float(LANE_BYTES), max(1.0, moved / item.work.vector_elements)) if item.work.vector_elements else 0.0


def _pipeline_steps(item: WorkItem) -> float:
    results = max((p.batch * p.m * p.n for p in item.work.products), default=0)
    return float(min(MOST_PIPELINE_STEPS, max(1, results // PIPELINE_STEP_RESULTS)))
