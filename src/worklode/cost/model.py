"""Costs of work items on accelerators: `operator_costs` for one design, `CostModel` for many.

How parts become options: docs/models/operator_costs.md.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worklode.cost.attention import attention_reread_table
from worklode.cost.compiled import Floats, Ints
from worklode.cost.item_arrays import ItemArrays, item_arrays
from worklode.cost.operator_costs import OperatorCosts
from worklode.cost.options import ABOVE_TENSOR_PEAK, FINE, NOT_POSITIVE, ROUNDING, core_counts, item_options
from worklode.cost.tensor_core import INPUTS_STATIONARY, MOST_CORES, least_core_cycles, split_table
from worklode.cost.traffic import TILE_SHARE, reread_table
from worklode.cost.vector_core import SPECIAL_OPERATION_CYCLES, held_group_bytes, vector_table
from worklode.errors import Fault, InternalError, SpecError
from worklode.graph.work import Communication, WorkItem
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.buffers import tensor_core_buffer_bytes, vector_core_buffer_bytes, vector_core_port_bytes
from worklode.hardware.design import ACCUMULATOR_BYTES, OPERAND_BYTES, Design

Mode = Literal["split", "one-core"]
# Time of a collective [s], or those of all items ([U], read where an item is a collective).
CommunicationTimes = Callable[[Communication], float] | NDArray[np.float64]
# Simple and special operations, bytes to and from SRAM, reductions, dependent steps of the items, each [U].
LaneWork = tuple[Floats, Floats, Floats, Ints, Ints]

# Cycles in which a core goes over to another operator [cycles]. Assumption: pipelines of instructions and lanes drain
# and fill; arrays are counted apart.
SWITCH_CYCLES = 128

# Sizes of on-chip memory the traffic tables know [bytes]: 8 an octave, so that designs share them. A share is rounded
# down to the next one, which costs at most 8 % of it and never flatters; powers of two are exact.
SRAM_SIZES = tuple(sorted({int(2.0 ** (step / 8)) for step in range(8 * 50)}))


def operator_costs(
    items: Sequence[WorkItem],
    accelerator: Accelerator,
    *,
    mode: Mode = "split",
    communication_s: CommunicationTimes | None = None,
) -> OperatorCosts:
    """Costs of work items on one accelerator.

    Args:
        items: distinct work items.
        accelerator: the design.
        mode: "split" lets an operator use any number of cores, "one-core" one of each type.
        communication_s: times of the collectives among the items, which depend on the network and not on the design.

    Raises:
        SpecError: the accelerator lacks cores the items need, or has an impossible size; there are collectives and no
            times for them.
        InternalError: an item or a result is impossible.
    """
    return CostModel(items, mode=mode).on(accelerator, communication_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductSplit:
    """How a product is spread over cores: parts along each dimension, and which operand stays in the arrays."""

    batch_parts: int
    m_parts: int
    n_parts: int
    k_parts: int
    inputs_stationary: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WorkBounds:
    """Lower bounds of the resources one iteration takes on D designs, whatever the schedule.

    Attributes:
        tensor_core_s, vector_core_s: [D] core-seconds of each type.
        hbm_bytes: [D] HBM traffic [bytes] with the whole SRAM for every operator.
    """

    tensor_core_s: Floats
    vector_core_s: Floats
    hbm_bytes: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _ShapeTable:
    """Costs of the products on arrays of one shape, for up to `most_cores` of them."""

    most_cores: int
    cycles: Floats
    sram_bytes: Floats
    split: Ints
    macs: Floats
    simple_ops: Floats
    special_ops: Floats
    lane_sram_bytes: Floats


class CostModel:
    """Costs of one set of work items on any number of accelerators; what designs have in common is computed once.

    Attributes:
        items, mode: as in `operator_costs`.
    """

    def __init__(self, items: Sequence[WorkItem], *, mode: Mode = "split") -> None:
        self.items = tuple(items)
        self.mode: Mode = mode
        self._arrays: ItemArrays = item_arrays(self.items)
        self._reload_bytes = _reload_bytes(self._arrays)
        self._shapes: dict[tuple[int, int, int], _ShapeTable] = {}
        self._reread: dict[tuple[int, float], Floats] = {}

    def on(self, accelerator: Accelerator, communication_s: CommunicationTimes | None = None) -> OperatorCosts:
        """Costs of the items on an accelerator; as `operator_costs`."""
        arrays = self._arrays
        exchanging_s = self._exchanging_s(communication_s)
        _check_accelerator(accelerator, arrays)
        ladders = self._ladders(accelerator)
        tensor_ladder, fused_ladder, vector_ladder = ladders
        table = self._shape_table(accelerator)
        count = len(arrays)
        lanes = accelerator.vector_lanes
        fused_cycles = np.empty((count, len(fused_ladder)))
        lane_cycles = np.empty((count, len(vector_ladder)))
        port_bytes = vector_core_port_bytes(accelerator) / max(1, lanes)
        beside = (table.simple_ops, table.special_ops, table.lane_sram_bytes, arrays.reduces, arrays.serial_steps)
        vector_table(*beside, lanes, port_bytes, fused_ladder, fused_cycles)
        vector_table(*_lanes_alone(arrays), lanes, port_bytes, vector_ladder, lane_cycles)
        room = count * max(1, len(tensor_ladder), len(vector_ladder))
        option_start = np.empty(count + 1, np.int64)
        tensor_cores, vector_cores = np.empty(room, np.int64), np.empty(room, np.int64)
        compute_s, hbm_bytes, sram_bytes = np.empty(room), np.empty(room), np.empty(room)
        tensor_core_s, vector_core_s = np.empty(count), np.empty(count)
        on_lanes = np.empty(count, np.int64)
        wrong, at = item_options(
            arrays.product_start,
            arrays.product,
            arrays.has_lanes,
            arrays.suits_lanes,
            arrays.chained,
            table.cycles,
            table.sram_bytes,
            fused_cycles,
            lane_cycles,
            table.lane_sram_bytes,
            arrays.alone_sram_bytes,
            arrays.steps,
            tensor_ladder,
            fused_ladder,
            vector_ladder,
            self._rereads(accelerator.sram_bytes, tensor_ladder, accelerator.num_tensor_cores),
            self._rereads(
                accelerator.sram_bytes, vector_ladder, accelerator.num_vector_cores, _held_bytes(accelerator)
            ),
            arrays.fixed_bytes,
            table.macs,
            table.simple_ops + SPECIAL_OPERATION_CYCLES * table.special_ops,
            arrays.alone_simple_ops + SPECIAL_OPERATION_CYCLES * arrays.special_ops,
            arrays.reduces,
            float(accelerator.tensor_core_rows * accelerator.tensor_core_cols),
            float(lanes),
            accelerator.sustained_clock_hz,
            accelerator.operator_start_s,
            accelerator.sustained_hbm_bytes_per_s,
            exposes_transfers(accelerator),
            accelerator.operator_fill_s,
            on_lanes,
            option_start,
            tensor_cores,
            vector_cores,
            compute_s,
            hbm_bytes,
            sram_bytes,
            tensor_core_s,
            vector_core_s,
        )
        if wrong != FINE:
            raise _impossible(wrong, self.items[at], accelerator)
        compute_s[option_start[arrays.collectives]] = exchanging_s
        resume_bytes = np.repeat(self._reload_bytes, np.diff(option_start))
        return OperatorCosts(
            option_start=option_start,
            tensor_cores=tensor_cores[:at].copy(),
            vector_cores=vector_cores[:at].copy(),
            compute_s=compute_s[:at].copy(),
            hbm_bytes=hbm_bytes[:at].copy(),
            sram_bytes=sram_bytes[:at].copy(),
            macs=np.where(on_lanes, 0.0, table.macs),
            lane_ops=np.where(on_lanes, arrays.alone_simple_ops, table.simple_ops) + table.special_ops,
            tensor_core_s=tensor_core_s,
            vector_core_s=vector_core_s,
            streams=self.streams,
            resume_s=_resume_s(accelerator, tensor_cores[:at], hbm_bytes[:at], resume_bytes),
            resume_bytes=resume_bytes,
        )

    def resume_costs(
        self, accelerator: Accelerator, option_start: Ints, tensor_cores: Ints, hbm_bytes: Floats
    ) -> tuple[Floats, Floats]:
        """[O] time [s] and HBM bytes that one interruption adds to options of the items; see `OperatorCosts`."""
        resume_bytes = np.repeat(self._reload_bytes, np.diff(option_start))
        return _resume_s(accelerator, tensor_cores, hbm_bytes, resume_bytes), resume_bytes

    def splits(self, item: int, accelerator: Accelerator, tensor_cores: int) -> tuple[ProductSplit, ...]:
        """How the products of an item are spread over that many tensor cores, for people."""
        table = self._shape_table(accelerator)
        arrays = self._arrays
        return tuple(
            ProductSplit(
                batch_parts=int(parts[0]),
                m_parts=int(parts[1]),
                n_parts=int(parts[2]),
                k_parts=int(parts[3]),
                inputs_stationary=int(parts[4]) == INPUTS_STATIONARY,
            )
            for parts in table.split[
                arrays.product[arrays.product_start[item] : arrays.product_start[item + 1]], tensor_cores
            ]
        )

    def one_tensor_core_s(self, accelerator: Accelerator) -> Floats:
        """[U] least time [s] of the products of each item on one tensor core of this shape, whatever the split."""
        arrays = self._arrays
        cycles = self._least_cycles(accelerator.tensor_core_rows, accelerator.tensor_core_cols)
        owner = np.repeat(np.arange(len(arrays)), np.diff(arrays.product_start))
        return _sum_by(owner, cycles[arrays.product], len(arrays)) / accelerator.sustained_clock_hz

    def one_vector_core_s(self, accelerator: Accelerator) -> Floats:
        """[U] time [s] of the lane work of each item on one vector core with these lanes."""
        lanes = accelerator.vector_lanes
        port_bytes = float(vector_core_port_bytes(accelerator)) / max(1, lanes)
        cycles = self._least_lane_cycles(_lane_work(self._arrays), lanes, port_bytes)
        return np.asarray(cycles / accelerator.sustained_clock_hz)

    def lanes_alone_s(self, accelerator: Accelerator) -> Floats:
        """[U] time [s] of each item on one vector core that computes its products too; infinite where it may not."""
        lanes = accelerator.vector_lanes
        port_bytes = float(vector_core_port_bytes(accelerator)) / max(1, lanes)
        cycles = self._least_lane_cycles(_lanes_alone(self._arrays), lanes, port_bytes)
        return np.where(self._arrays.suits_lanes, cycles / accelerator.sustained_clock_hz, np.inf)

    def all_tensor_cores_s(self, accelerator: Accelerator) -> Floats:
        """[U] least time [s] of the products of each item on as many of the design's tensor cores as help."""
        arrays = self._arrays
        used = min(accelerator.num_tensor_cores, 1) if self.mode == "one-core" else accelerator.num_tensor_cores
        cycles = self._shape_table(accelerator).cycles[:, used]
        owner = np.repeat(np.arange(len(arrays)), np.diff(arrays.product_start))
        return _sum_by(owner, cycles[arrays.product], len(arrays)) / accelerator.sustained_clock_hz

    def all_vector_cores_s(self, accelerator: Accelerator) -> Floats:
        """[U] least time [s] of the lane work of each item, products apart, on all vector cores of the design."""
        return self._all_lanes_s(_lane_work(self._arrays), accelerator)

    def all_lanes_alone_s(self, accelerator: Accelerator) -> Floats:
        """[U] least time [s] of each item on all vector cores, products too; infinite where they may not."""
        return np.where(self._arrays.suits_lanes, self._all_lanes_s(_lanes_alone(self._arrays), accelerator), np.inf)

    def _all_lanes_s(self, work: LaneWork, accelerator: Accelerator) -> Floats:
        used = min(accelerator.num_vector_cores, 1) if self.mode == "one-core" else accelerator.num_vector_cores
        port_bytes = float(vector_core_port_bytes(accelerator)) / max(1, accelerator.vector_lanes)
        cycles = np.empty((len(self._arrays), 1))
        vector_table(*work, accelerator.vector_lanes, port_bytes, np.array([used], np.int64), cycles)
        return np.asarray(cycles[:, 0] / accelerator.sustained_clock_hz)

    @property
    def held_cores(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """[U] items every option of which holds a tensor core, and those every option of which holds a vector core."""
        arrays = self._arrays
        products = np.diff(arrays.product_start) > 0
        return products & (arrays.suits_lanes == 0), arrays.has_lanes > 0

    @property
    def has_products(self) -> NDArray[np.bool_]:
        """[U] items with matrix products."""
        return np.asarray(np.diff(self._arrays.product_start) > 0)

    @property
    def has_lanes(self) -> NDArray[np.bool_]:
        """[U] items with work for the lanes beside their products."""
        return np.asarray(self._arrays.has_lanes > 0)

    def shown_share(self, accelerator: Accelerator) -> Floats:
        """[U] share of the shorter of products and lane work that shows; see `options.pipelined_cycles`."""
        chained = exposes_transfers(accelerator) & (self._arrays.chained >= 0)
        return np.where(chained, 1.0, 1.0 / self._arrays.steps)

    def core_counts(self, cores: int) -> tuple[int, ...]:
        """Numbers of cores of one type that an operator may take where there are this many."""
        return (1,) * min(cores, 1) if self.mode == "one-core" else core_counts(cores)

    def sram_size(self, sram_bytes: int) -> int:
        """The size [bytes] at which the traffic tables look up an SRAM, or a share of one; 0 below the least."""
        index = _sram_index(sram_bytes)
        return SRAM_SIZES[index] if index >= 0 else 0

    @property
    def streams(self) -> NDArray[np.bool_]:
        """[U] items without products whose elements wait for no others; see `options.item_options`."""
        return np.asarray((np.diff(self._arrays.product_start) == 0) & (self._arrays.reduces == 0))

    @property
    def least_macs(self) -> Floats:
        """[U] multiply-accumulates that arrays of any shape do for each item; none where lanes may do them instead."""
        arrays = self._arrays
        owner = np.repeat(np.arange(len(arrays)), np.diff(arrays.product_start))
        seen = (arrays.products.macs * (1.0 - arrays.products.masked))[arrays.product]
        return np.where(arrays.suits_lanes, 0.0, _sum_by(owner, seen, len(arrays)))

    @property
    def least_lane_ops(self) -> Floats:
        """[U] lane operations of each item beside its products, on cores of any shape."""
        return np.asarray(self._arrays.simple_ops + self._arrays.special_ops)

    def item_hbm_bytes(self, sram_bytes: int) -> Floats:
        """[U] HBM traffic [bytes] of each item when it has all of an SRAM of this size."""
        return np.asarray(self._arrays.fixed_bytes + self._reread_at(_sram_index(sram_bytes)))

    def item_hbm_bytes_beside(self, sram_bytes: int, accelerator: Accelerator) -> Floats:
        """[U] as `item_hbm_bytes`, with the registers of the vector cores of an accelerator, whatever its own SRAM."""
        return np.asarray(
            self._arrays.fixed_bytes + self._held_reread_at(_sram_index(sram_bytes), _held_bytes(accelerator))
        )

    def exchanging_s(self, communication_s: CommunicationTimes | None) -> Floats:
        """[U] time of the items that are collectives, 0 for all others [s].

        Raises:
            SpecError: there are collectives and no times for them.
        """
        found = np.zeros(len(self._arrays))
        found[self._arrays.collectives] = self._exchanging_s(communication_s)
        return found

    def bounds(self, designs: Design, counts: ArrayLike | None = None) -> WorkBounds:
        """Lower bounds of the work of one iteration on D designs, free of the numbers of cores.

        Core-seconds divided by the cores, and bytes by the bandwidth, bound the iteration from below in either mode.
        Products that lanes may compute count for neither type of core.

        Args:
            designs: arrays of shape [D] under the names of `Accelerator`, or one accelerator.
            counts: [U] how often each item occurs in an iteration; once if None.
        """
        arrays = self._arrays
        weight = np.ones(len(arrays)) if counts is None else np.asarray(counts, np.float64)
        lanes_wide = np.atleast_1d(designs.vector_lanes)
        rows, cols, lanes, port, sram, clock = np.broadcast_arrays(
            np.atleast_1d(designs.tensor_core_rows),
            designs.tensor_core_cols,
            lanes_wide,
            vector_core_port_bytes(designs) / np.maximum(1, lanes_wide),
            designs.sram_bytes,
            np.asarray(designs.clock_hz) * designs.clock_share,
        )
        shapes, shape_of = np.unique(np.stack([rows, cols], axis=1).astype(np.int64), axis=0, return_inverse=True)
        owner_weight = np.repeat(weight * (1 - arrays.suits_lanes), np.diff(arrays.product_start))
        product_weight = np.bincount(arrays.product, owner_weight, len(arrays.products.m))
        tensor = np.array([self._least_cycles(int(r), int(c)) @ product_weight for r, c in shapes])
        widths, width_of = np.unique(np.stack([lanes, port], axis=1), axis=0, return_inverse=True)
        work = _lane_work(arrays)
        vector = np.array([self._least_lane_cycles(work, int(wide), float(moved)) @ weight for wide, moved in widths])
        sizes, size_of = np.unique(np.array([_sram_index(int(size)) for size in sram]), return_inverse=True)
        traffic = np.array([(arrays.fixed_bytes + self._reread_at(int(size))) @ weight for size in sizes])
        return WorkBounds(
            tensor_core_s=tensor[shape_of.reshape(-1)] / clock,
            vector_core_s=vector[width_of.reshape(-1)] / clock,
            hbm_bytes=traffic[size_of.reshape(-1)],
        )

    def _exchanging_s(self, communication_s: CommunicationTimes | None) -> Floats:
        """[T] times of the items that are collectives [s]."""
        chosen = self._arrays.collectives
        if len(chosen) == 0:
            return np.empty(0)
        found = [self.items[index].work.communication for index in chosen]
        if communication_s is None:
            problem, allowed = (
                "a collective on a single device: no network is given",
                "a network and a parallel setting",
            )
            raise SpecError(*(Fault(where="operator", value=str(c), problem=problem, allowed=allowed) for c in found))
        if callable(communication_s):
            times = np.array([communication_s(c) for c in found if c is not None], np.float64)
        else:
            times = np.asarray(communication_s, np.float64)[chosen]
        if not (np.isfinite(times) & (times >= 0.0)).all():
            wrong = int(np.flatnonzero(~(np.isfinite(times) & (times >= 0.0)))[0])
            raise InternalError(f"time {times[wrong]} s of a collective: {found[wrong]}")
        return times

    def _ladders(self, accelerator: Accelerator) -> tuple[Ints, Ints, Ints]:
        """Numbers of tensor cores, of vector cores beside each of them, and of vector cores alone."""
        tensor, vector = accelerator.num_tensor_cores, accelerator.num_vector_cores
        if self.mode == "one-core":
            tensor_ladder, vector_ladder = (1,) * min(tensor, 1), (1,) * min(vector, 1)
            beside = [min(vector, 1)] * len(tensor_ladder)
        else:
            tensor_ladder, vector_ladder = core_counts(tensor), core_counts(vector)
            beside = [max(min(vector, 1), -(-p * vector // tensor)) for p in tensor_ladder]
        return np.array(tensor_ladder, np.int64), np.array(beside, np.int64), np.array(vector_ladder, np.int64)

    def _shape_table(self, accelerator: Accelerator) -> _ShapeTable:
        rows, cols = accelerator.tensor_core_rows, accelerator.tensor_core_cols
        key = (rows, cols, int(accumulator_rows(accelerator)))
        most_cores = 1 if self.mode == "one-core" else accelerator.num_tensor_cores
        known = self._shapes.get(key)
        if known is None or known.most_cores < most_cores:
            known = self._build_shape_table(*key, min(MOST_CORES - 1, 1 << (most_cores - 1).bit_length()))
            self._shapes[key] = known
        return known

    def _executed(self, rows: int, cols: int) -> Floats:
        """[W] executed share of the products on arrays of a shape; see `attention.executed_fraction`."""
        products = self._arrays.products
        return 1.0 - products.masked * (1.0 - np.minimum(1.0, max(rows, cols) / products.span))

    def _build_shape_table(self, rows: int, cols: int, accumulators: int, most_cores: int) -> _ShapeTable:
        arrays, products = self._arrays, self._arrays.products
        executed = self._executed(rows, cols)
        cycles = np.empty((len(products.m), most_cores + 1))
        sram_bytes = np.zeros((len(products.m), most_cores + 1))
        split = np.zeros((len(products.m), most_cores + 1, 5), np.int64)
        split_table(
            products.batch,
            products.m,
            products.n,
            products.k,
            products.element_bytes,
            executed,
            rows,
            cols,
            accumulators,
            most_cores,
            cycles,
            sram_bytes,
            split,
        )
        owner = np.repeat(np.arange(len(arrays)), np.diff(arrays.product_start))
        macs = _sum_by(owner, (products.macs * executed)[arrays.product], len(arrays))
        # Lanes compute every score of a tile that is not skipped, also those behind the mask.
        first = arrays.product[arrays.product_start[arrays.attentions.item]]
        scale = np.ones(len(arrays))
        scale[arrays.attentions.item] = executed[first] / (1.0 - products.masked[first])
        return _ShapeTable(
            most_cores=most_cores,
            cycles=cycles,
            sram_bytes=sram_bytes,
            split=split,
            macs=macs,
            simple_ops=arrays.simple_ops * scale,
            special_ops=arrays.special_ops * scale,
            lane_sram_bytes=arrays.lane_sram_bytes * scale,
        )

    def _rereads(self, sram_bytes: int, ladder: Ints, cores: int, held_bytes: float = np.inf) -> Floats:
        """[J, U] HBM bytes beyond every operand once, with the share p/P of the SRAM; see `_held_reread_at`."""
        if len(ladder) == 0:
            return np.zeros((0, len(self._arrays)))
        return np.stack([self._held_reread_at(_sram_index(sram_bytes * int(p) // cores), held_bytes) for p in ladder])

    def _held_reread_at(self, index: int, held_bytes: float) -> Floats:
        """As `_reread_at` where a core holds groups of `held_bytes` at most.

        A vector operator reads a larger group again; from HBM unless its whole input stays in the SRAM meanwhile.
        """
        if held_bytes == np.inf:
            return self._reread_at(index)
        known = self._reread.get((index, held_bytes))
        if known is not None:
            return known
        arrays, base = self._arrays, self._reread_at(index)
        size = float(SRAM_SIZES[index]) if index >= 0 else 0.0
        again = (arrays.reduction_bytes > held_bytes) & (arrays.reduction_bytes <= size)
        again &= (np.diff(arrays.product_start) == 0) & (arrays.reduction_reread > size * TILE_SHARE)
        total = base + np.where(again, arrays.reduction_reread, 0.0)
        self._reread[index, held_bytes] = total
        return total

    def _reread_at(self, index: int) -> Floats:
        """[U] HBM bytes beyond every operand once, with `SRAM_SIZES[index]` on chip."""
        known = self._reread.get((index, np.inf))
        if known is not None:
            return known
        arrays, products, attentions = self._arrays, self._arrays.products, self._arrays.attentions
        size = float(SRAM_SIZES[index]) if index >= 0 else 0.0
        of_product = np.empty(len(products.m))
        reread_table(
            products.batch,
            products.m,
            products.n,
            products.k,
            products.a_elements,
            products.b_elements,
            products.c_elements,
            products.element_bytes,
            products.patch,
            products.window,
            size,
            of_product,
        )
        owner = np.repeat(np.arange(len(arrays)), np.diff(arrays.product_start))
        total = _sum_by(owner, of_product[arrays.product], len(arrays))
        of_attention = np.empty(len(attentions.item))
        attention_reread_table(
            attentions.groups,
            attentions.queries,
            attentions.keys,
            attentions.dim_qk,
            attentions.dim_v,
            attentions.element_bytes,
            attentions.products,
            attentions.visible,
            size,
            of_attention,
        )
        total[attentions.item] = of_attention
        total += np.where(arrays.reduction_bytes > size, arrays.reduction_reread, 0.0)
        self._reread[index, np.inf] = total
        return total

    def _least_cycles(self, rows: int, cols: int) -> Floats:
        products = self._arrays.products
        cycles = np.empty(len(products.m))
        least_core_cycles(
            products.batch, products.m, products.n, products.k, self._executed(rows, cols), rows, cols, cycles
        )
        return cycles

    def _least_lane_cycles(self, work: LaneWork, lanes: int, port_bytes: float) -> Floats:
        cycles = np.empty((len(self._arrays), 1))
        vector_table(*work, lanes, port_bytes, np.ones(1, np.int64), cycles)
        return cycles[:, 0]


def _reload_bytes(arrays: ItemArrays) -> Floats:
    """[U] HBM bytes that an operator moves once more where it is cut in two.

    Both parts of one product read the operand they share, or, cut along the reduction, one writes its partial sums and
    the other reads them: what is least. Only one product is cut, at most the largest of them in this respect.
    Operators without products are cut between groups that share nothing.
    """
    products = arrays.products
    operand = np.minimum(products.a_elements, products.b_elements) * products.element_bytes
    again = np.minimum(operand, 2.0 * products.c_elements * ACCUMULATOR_BYTES)
    found = np.zeros(len(arrays))
    owner = np.repeat(np.arange(len(arrays)), np.diff(arrays.product_start))
    np.maximum.at(found, owner, again[arrays.product])
    return found


def _resume_s(accelerator: Accelerator, tensor_cores: Ints, hbm_bytes: Floats, reload_bytes: Floats) -> Floats:
    """[O] time [s] that one interruption adds: cores go over, arrays drain and get new weights, buffers fill, reload.

    An operator on a multiprocessor empties and fills its buffers as at its ends (`operator_fill_s`). It is not issued
    again (`operator_start_s`): what is left of it waits beside others of higher priority (CUDA C++ Programming Guide
    13.0, "Stream Priorities").
    """
    array = 2 * accelerator.tensor_core_rows + accelerator.tensor_core_cols
    cycles = SWITCH_CYCLES + np.where(tensor_cores > 0, array, 0)
    bandwidth = accelerator.sustained_hbm_bytes_per_s
    most_s = accelerator.operator_fill_s if exposes_transfers(accelerator) else 0.0
    filling_s = np.minimum(hbm_bytes / bandwidth, most_s)
    return np.asarray(cycles / accelerator.sustained_clock_hz + filling_s + reload_bytes / bandwidth)


def _lane_work(arrays: ItemArrays) -> LaneWork:
    """Lane work beside the products, as `vector_table` takes it."""
    return (arrays.simple_ops, arrays.special_ops, arrays.lane_sram_bytes, arrays.reduces, arrays.serial_steps)


def _lanes_alone(arrays: ItemArrays) -> LaneWork:
    """Work of lanes that compute the products they may compute too."""
    reduces, moved = arrays.alone_reduces, arrays.alone_sram_bytes
    return (arrays.alone_simple_ops, arrays.special_ops, moved, reduces, arrays.serial_steps)


def _held_bytes(accelerator: Accelerator) -> float:
    """Largest group a vector core holds until it is seen whole [bytes]; see `vector_core.held_group_bytes`."""
    if accelerator.family != "simt":
        return np.inf
    return held_group_bytes(float(vector_core_buffer_bytes(accelerator)))


def exposes_transfers(accelerator: Accelerator) -> bool:
    """Whether HBM transfers of an operator show beside its computation (docs/models/efficiency.md).

    A program that moves its data ahead of time hides the lesser of both. The threads of a multiprocessor ask for data
    when they need it, and every kernel begins with empty buffers.
    """
    return accelerator.family == "simt"


def bound_by_hbm(costs: OperatorCosts, accelerator: Accelerator) -> NDArray[np.bool_]:
    """[O] options whose transfers take longer than their computation."""
    moving_s = costs.hbm_bytes / accelerator.sustained_hbm_bytes_per_s
    if not exposes_transfers(accelerator):
        return np.asarray(moving_s > costs.compute_s)
    held = costs.tensor_cores + costs.vector_cores > 0
    # Time grows with that of the cores, so they take less than the transfers where it is less than with both equal.
    both = np.where(np.repeat(costs.streams, np.diff(costs.option_start)), 1.0, np.sqrt(2.0))
    both_equal_s = both * moving_s + np.minimum(moving_s, accelerator.operator_fill_s)
    start_s = np.where(held, accelerator.operator_start_s, 0.0)
    # A stream takes exactly as long for any computation that hides behind its transfers.
    return np.asarray(both_equal_s * (1.0 + ROUNDING) >= costs.compute_s - start_s)


def accumulator_rows(design: Design) -> Any:
    """Rows of a block of results a tensor core keeps in its buffer [count]; weights are loaded again for every block.

    M = max(R, buffer/(2·(R·operand + C·4))): two blocks of M rows of operands and of C partial sums, as the rule of
    `hardware.buffers.tensor_core_buffer_bytes` has it (there M = max(R, C)).
    """
    rows, cols = design.tensor_core_rows, design.tensor_core_cols
    row_bytes = rows * OPERAND_BYTES[design.mac_dtype] + cols * ACCUMULATOR_BYTES
    return np.maximum(rows, tensor_core_buffer_bytes(design) // (2 * row_bytes))


def _sum_by(owner: Ints, values: Floats, count: int) -> Floats:
    """[count] sums of the values of each owner, floating even where there is none."""
    return np.bincount(owner, values, count).astype(np.float64)


def _sram_index(sram_bytes: int) -> int:
    """Index of the largest of `SRAM_SIZES` that is not above this size; -1 where none is."""
    return bisect_right(SRAM_SIZES, sram_bytes) - 1


def _check_accelerator(accelerator: Accelerator, arrays: ItemArrays) -> None:
    """Refuse an accelerator that cannot run the items, with every reason."""
    faults = []

    def demand(name: str, value: float, least: float, problem: str) -> None:
        if not least <= value < np.inf:
            allowed = "more than 0" if isinstance(value, float) else f"{least:.0f} or more"
            faults.append(Fault(where="accelerator", path=name, value=str(value), problem=problem, allowed=allowed))

    needs_tensor, needs_vector = len(arrays.product) > 0, bool(arrays.has_lanes.any())
    problem = "the workload has matrix products" if needs_tensor else "a number of cores is never negative"
    demand("num_tensor_cores", accelerator.num_tensor_cores, int(needs_tensor), problem)
    problem = "the workload has vector operations" if needs_vector else "a number of cores is never negative"
    demand("num_vector_cores", accelerator.num_vector_cores, int(needs_vector), problem)
    if accelerator.num_tensor_cores >= MOST_CORES:
        found, allowed = str(accelerator.num_tensor_cores), f"less than {MOST_CORES}"
        problem = "more tensor cores than the model splits over"
        faults.append(
            Fault(where="accelerator", path="num_tensor_cores", value=found, problem=problem, allowed=allowed)
        )
    if accelerator.num_tensor_cores > 0:
        for name in ("tensor_core_rows", "tensor_core_cols"):
            demand(name, getattr(accelerator, name), 1, "a tensor core has rows and columns")
    if accelerator.num_vector_cores > 0:
        demand("vector_lanes", accelerator.vector_lanes, 1, "a vector core has lanes")
    demand("sram_bytes", accelerator.sram_bytes, 0, "a size is never negative")
    demand("clock_hz", float(accelerator.clock_hz), np.finfo(float).tiny, "a clock ticks")
    if faults:
        raise SpecError(*faults)


def _impossible(wrong: int, item: WorkItem, accelerator: Accelerator) -> InternalError:
    what = "is not positive and finite" if wrong == NOT_POSITIVE else "is above the peak of the vector cores"
    if wrong == ABOVE_TENSOR_PEAK:
        what = "is above the peak of the tensor cores"
    return InternalError(f"a cost {what}: {item} on {accelerator}")
