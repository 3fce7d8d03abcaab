"""Costs of given mappings: what the cost model finds the best of, for searchers that look for mappings themselves.

A mapping of an operator says on how many cores it runs, how each of its products is split over them, and how it is
tiled for the SRAM: which operand stays on chip and how large tiles are (docs/models/traffic.md, tensor_core.md). The
choices are those the cost model enumerates, so no mapping is better than the best option it offers
(tests/cost/test_mapping.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from worklode.cost.compiled import Floats, Ints
from worklode.cost.model import CostModel, accumulator_rows, exposes_transfers
from worklode.cost.tensor_core import mapped_cycles
from worklode.cost.traffic import (
    A_STAYS,
    B_STAYS,
    OUTPUTS_STAY,
    PATCH_A,
    PATCH_B,
    PATCH_C,
    halo_edges,
    mapped_reread,
    tile_edges,
)
from worklode.cost.vector_core import vector_table
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.buffers import vector_core_port_bytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mappings:
    """S mappings of one operator with W products.

    Attributes:
        step: [S] which number of cores of the design's ladder (`ItemMapper.ladder`).
        splits: [S, W, 5] parts along (batch, m, n, k) and operand that is stationary in the arrays (0 weights).
        tilings: [S, W, 4] what stays on chip (`OUTPUTS_STAY`, `A_STAYS`, `B_STAYS`), and tile edges along m, n, k
            [elements]; not read where the products are chained, whose tiling is that of attention.
    """

    step: Ints
    splits: Ints
    tilings: Ints

    def __len__(self) -> int:
        return len(self.step)

    def take(self, rows: Ints) -> Mappings:
        """Some of them."""
        return Mappings(step=self.step[rows], splits=self.splits[rows], tilings=self.tilings[rows])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MappedCosts:
    """Costs of S mappings; infinite where a mapping needs more cores or SRAM than it has.

    Attributes:
        tensor_cores, vector_cores: [S] held.
        compute_s, hbm_bytes, sram_bytes: [S] as in `OperatorCosts`.
        alone_s: [S] the larger of computation and transfers [s].
    """

    tensor_cores: Ints
    vector_cores: Ints
    compute_s: Floats
    hbm_bytes: Floats
    sram_bytes: Floats
    alone_s: Floats

    @property
    def legal(self) -> NDArray[np.bool_]:
        """[S] which can be carried out."""
        return np.isfinite(self.alone_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductShape:
    """Sizes of one product, and the edges its tiles may have."""

    batch: int
    m: int
    n: int
    k: int
    element_bytes: int
    patch: int

    @property
    def rows_overlap(self) -> bool:
        """Neighbouring tiles along m fetch, or add up, some elements both."""
        return self.patch in (PATCH_A, PATCH_C)

    def edges(self, stays: int, *, coarse: bool = False) -> tuple[Ints, Ints, Ints]:
        """Tile edges along m, n and k that may be chosen where this operand stays, descending.

        Where rows overlap and A or B stays, there are two sets, as in the enumeration: fine rows, with the shortest
        edge along n where B stays, and `coarse` rows, four times as long from one to the next, with any edge along n.
        """
        rows, cols, depth = (tile_edges(length, self.element_bytes) for length in (self.m, self.n, self.k))
        if self.patch == PATCH_B:
            depth = halo_edges(self.k, self.element_bytes, halving=stays != OUTPUTS_STAY)
        if self.rows_overlap and stays != OUTPUTS_STAY:
            if coarse:
                rows = halo_edges(self.m, self.element_bytes)
            elif stays == B_STAYS:
                cols = cols[-1:]
        return rows, cols, depth


class ItemMapper:
    """Mappings of one item on one design: which there are, and what they cost."""

    def __init__(self, model: CostModel, item: int, accelerator: Accelerator) -> None:
        self.model = model
        self.item = item
        self.accelerator = accelerator
        tensor, beside, _ = model._ladders(accelerator)
        self.ladder: Ints = tensor
        self.beside: Ints = beside
        arrays = model._arrays
        self.products: Ints = arrays.product[arrays.product_start[item] : arrays.product_start[item + 1]]
        self.chained = bool(arrays.chained[item] >= 0)

    @cached_property
    def shapes(self) -> tuple[ProductShape, ...]:
        """The products of the item."""
        products = self.model._arrays.products
        return tuple(
            ProductShape(
                batch=int(products.batch[w]),
                m=int(products.m[w]),
                n=int(products.n[w]),
                k=int(products.k[w]),
                element_bytes=int(products.element_bytes[w]),
                patch=int(products.patch[w]),
            )
            for w in self.products
        )

    @cached_property
    def share_bytes(self) -> Floats:
        """[J] SRAM of the operator on each number of cores of the ladder, as the traffic tables round it [bytes]."""
        accelerator, model = self.accelerator, self.model
        sizes = [model.sram_size(accelerator.sram_bytes * int(p) // accelerator.num_tensor_cores) for p in self.ladder]
        return np.array(sizes, np.float64)

    def costs(self, mappings: Mappings) -> MappedCosts:
        """Costs of mappings of this item."""
        cores = self.ladder[mappings.step]
        cycles, moved = self._products(mappings)
        used = mappings.splits[:, :, :4].prod(axis=2)
        cycles = np.where((used > cores[:, None]).any(axis=1), np.inf, cycles)
        traffic = self._traffic(mappings)
        held, lane_cycles, lane_moved = self._lanes(mappings)
        cycles = pipelined(cycles, lane_cycles, float(self.model.shown_share(self.accelerator)[self.item]))
        compute_s = self._shown(cycles / self.accelerator.sustained_clock_hz, traffic)
        alone_s = np.maximum(compute_s, traffic / self.accelerator.sustained_hbm_bytes_per_s)
        return MappedCosts(
            tensor_cores=cores,
            vector_cores=held,
            compute_s=compute_s,
            hbm_bytes=traffic,
            sram_bytes=moved + lane_moved,
            alone_s=np.where(np.isnan(alone_s), np.inf, alone_s),
        )

    def _products(self, mappings: Mappings) -> tuple[Floats, Floats]:
        """[S] cycles and on-chip bytes of the products, one after the other."""
        accelerator = self.accelerator
        rows, cols = accelerator.tensor_core_rows, accelerator.tensor_core_cols
        kept = int(accumulator_rows(accelerator))
        executed = self.model._executed(rows, cols)
        total, moved = np.zeros(len(mappings)), np.zeros(len(mappings))
        cycles, sram_bytes = np.empty(len(mappings)), np.empty(len(mappings))
        for at, (w, shape) in enumerate(zip(self.products, self.shapes, strict=True)):
            parts = np.ascontiguousarray(mappings.splits[:, at])
            sizes = (shape.batch, shape.m, shape.n, shape.k, rows, cols, kept)
            mapped_cycles(*sizes, executed[w], shape.element_bytes, parts, cycles, sram_bytes)
            total += cycles
            moved += sram_bytes
        return total, moved

    def _traffic(self, mappings: Mappings) -> Floats:
        """[S] HBM bytes."""
        arrays, model = self.model._arrays, self.model
        fixed = arrays.fixed_bytes[self.item]
        if self.chained:
            shares = model._rereads(self.accelerator.sram_bytes, self.ladder, self.accelerator.num_tensor_cores)
            return np.asarray(fixed + shares[mappings.step, self.item])
        products, sizes = arrays.products, self.share_bytes[mappings.step]
        reread = np.where(arrays.reduction_bytes[self.item] > sizes, arrays.reduction_reread[self.item], 0.0)
        for size in np.unique(sizes):
            rows = np.flatnonzero(sizes == size)
            found = np.empty(len(rows))
            for at, (w, shape) in enumerate(zip(self.products, self.shapes, strict=True)):
                mapped_reread(
                    shape.batch,
                    shape.m,
                    shape.n,
                    shape.k,
                    products.a_elements[w],
                    products.b_elements[w],
                    products.c_elements[w],
                    shape.element_bytes,
                    shape.patch,
                    products.window[w],
                    size,
                    np.ascontiguousarray(mappings.tilings[rows, at]),
                    found,
                )
                reread[rows] += found
        return np.asarray(fixed + reread)

    def _lanes(self, mappings: Mappings) -> tuple[Ints, Floats, float]:
        """[S] vector cores held beside the tensor cores, [S] cycles of the lane work, its on-chip bytes."""
        model, accelerator, item = self.model, self.accelerator, self.item
        if model._arrays.has_lanes[item] == 0:
            return np.zeros(len(mappings), np.int64), np.zeros(len(mappings)), 0.0
        return (
            self.beside[mappings.step],
            self._lane_cycles[mappings.step],
            float(model._shape_table(accelerator).lane_sram_bytes[item]),
        )

    @cached_property
    def _lane_cycles(self) -> Floats:
        """[J] cycles of the lane work beside each number of tensor cores."""
        model, accelerator, item = self.model, self.accelerator, slice(self.item, self.item + 1)
        table, arrays = model._shape_table(accelerator), model._arrays
        port_bytes = float(vector_core_port_bytes(accelerator)) / max(1, accelerator.vector_lanes)
        cycles = np.empty((1, len(self.beside)))
        work = (table.simple_ops[item], table.special_ops[item], table.lane_sram_bytes[item])
        steps = (arrays.reduces[item], arrays.serial_steps[item])
        vector_table(*work, *steps, accelerator.vector_lanes, port_bytes, self.beside, cycles)
        return np.asarray(cycles[0])

    def _shown(self, compute_s: Floats, traffic: Floats) -> Floats:
        """Time alone on the chip, as `options.item_options` has it."""
        accelerator = self.accelerator
        if exposes_transfers(accelerator):
            moving_s = traffic / accelerator.sustained_hbm_bytes_per_s
            filling_s = np.minimum(np.minimum(compute_s, moving_s), accelerator.operator_fill_s)
            compute_s = np.sqrt(compute_s * compute_s + moving_s * moving_s) + filling_s
        return np.asarray(compute_s + accelerator.operator_start_s)


def pipelined(products: Floats, lanes: Floats, shown: float) -> Floats:
    """[S] `options.pipelined_cycles`; where there is no lane work the products alone, unrounded."""
    both = np.ceil(np.maximum(products, lanes) + np.minimum(products, lanes) * shown)
    return np.where(lanes > 0.0, both, products)


__all__ = [
    "A_STAYS",
    "B_STAYS",
    "OUTPUTS_STAY",
    "ItemMapper",
    "MappedCosts",
    "Mappings",
    "ProductShape",
    "pipelined",
]
