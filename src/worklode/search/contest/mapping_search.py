"""A search of the mapping of one operator on one design: random samples, then Bayesian optimisation over features.

What Spotlight-like does for every operator on every design it looks at (docs/models/searchers.md). The cost model finds
the best mapping by enumeration instead, in a thousandth of the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product as every

import numpy as np

from worklode.cost.compiled import Floats, Ints
from worklode.cost.mapping import A_STAYS, B_STAYS, OUTPUTS_STAY, ItemMapper, MappedCosts, Mappings, ProductShape
from worklode.cost.tensor_core import INPUTS_STATIONARY
from worklode.search.contest.gaussian import LinearProcess

# Draws to fill a sample with mappings that fit [count]; what is then missing is left out.
MOST_DRAWS = 20
# Chance that a dimension is split into as many parts as there are cores left [1], else a number drawn evenly in its
# logarithm. Assumption: half, so that most samples use most of the cores they hold.
WHOLE_SPLIT = 0.5
# Chance that a dimension is not tiled [1]. Assumption: a quarter, about what drawing among the divisors of a size has.
WHOLE_EDGE = 0.25
# Chance of the coarse set of tiles where there are two (`ProductShape.edges`) [1]. Assumption: half.
COARSE_ROWS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class MappingSearchOptions:
    """How much a search of one mapping does.

    Attributes:
        samples: mappings costed, in all. Source: the default of Spotlight's command, 100.
        first: of them drawn at random. Assumption.
        batch: mappings chosen from one fit. Assumption.
        pool: random mappings among which expected improvement chooses. Assumption.
    """

    samples: int = 100
    first: int = 10
    batch: int = 10
    pool: int = 200


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundMappings:
    """What a search of one operator's mapping found: the mappings costed, in order, and their costs."""

    mappings: Mappings
    costs: MappedCosts

    @property
    def best(self) -> int:
        """Index of the mapping that takes least alone."""
        return int(self.costs.alone_s.argmin())


def search_mappings(mapper: ItemMapper, options: MappingSearchOptions, random: np.random.Generator) -> FoundMappings:
    """Search the mapping of an operator that takes least time alone."""
    mappings = draw(mapper, options.first, random)
    costs = mapper.costs(mappings)
    while len(mappings) < options.samples:
        process = LinearProcess(features(mapper, mappings), np.log(costs.alone_s))
        pool = draw(mapper, options.pool, random)
        gain = process.expected_improvement(features(mapper, pool))
        wanted = min(options.batch, options.samples - len(mappings))
        chosen = pool.take(np.argsort(-gain, kind="stable")[:wanted])
        mappings = _joined(mappings, chosen)
        costs = _joined_costs(costs, mapper.costs(chosen))
    return FoundMappings(mappings=mappings, costs=costs)


def draw(mapper: ItemMapper, count: int, random: np.random.Generator) -> Mappings:
    """Mappings that can be carried out, drawn at random; at least one, and `count` unless hardly any fits."""
    found = _smallest(mapper)
    legal = found.take(np.empty(0, np.int64))
    for _ in range(MOST_DRAWS):
        step = random.integers(0, len(mapper.ladder), count)
        cores = mapper.ladder[step]
        splits = np.stack([_splits(mapper, shape, cores, random) for shape in mapper.shapes], axis=1)
        tilings = np.stack([_tilings(shape, count, random) for shape in mapper.shapes], axis=1)
        drawn = Mappings(step=step, splits=splits, tilings=tilings)
        legal = _joined(legal, drawn.take(np.flatnonzero(mapper.costs(drawn).legal)))
        if len(legal) >= count:
            return legal.take(np.arange(count))
    return _joined(legal, found) if len(legal) else found


def features(mapper: ItemMapper, mappings: Mappings) -> Floats:
    """[S, F] what a designer would look at: parallelism, use of the arrays, tiles and how often operands are read.

    Logarithms, in which times are sums of them; products of one operator are averaged.
    """
    cores = mapper.ladder[mappings.step].astype(np.float64)
    per_product = [
        _features_of(mapper, shape, mappings.splits[:, at], mappings.tilings[:, at], cores)
        for at, shape in enumerate(mapper.shapes)
    ]
    return np.column_stack([np.log2(cores), np.mean(per_product, axis=0)])


def _features_of(mapper: ItemMapper, shape: ProductShape, splits: Ints, tilings: Ints, cores: Floats) -> Floats:
    rows, cols = mapper.accelerator.tensor_core_rows, mapper.accelerator.tensor_core_cols
    swapped = splits[:, 4] == INPUTS_STATIONARY
    streamed, stationary = np.where(swapped, shape.n, shape.m), np.where(swapped, shape.m, shape.n)
    stream_parts = np.where(swapped, splits[:, 2], splits[:, 1])
    stay_parts = np.where(swapped, splits[:, 1], splits[:, 2])
    depth_folds = -(-np.ceil(shape.k / rows) // splits[:, 3])
    width_folds = -(-np.ceil(stationary / cols) // stay_parts)
    stream = np.ceil(streamed / stream_parts)
    used = splits[:, :4].prod(axis=1)
    parallel = [
        *np.log2(splits[:, :4].T.astype(np.float64)),
        np.log2(used / cores),
        swapped.astype(np.float64),
        np.log2(depth_folds * width_folds),
        np.log2(np.maximum(stream, rows)),
        np.log2(shape.k / (splits[:, 3] * depth_folds * rows)),
        np.log2(stationary / (stay_parts * width_folds * cols)),
    ]
    if mapper.chained:
        return np.stack(parallel, axis=1)
    stays, edges = tilings[:, 0], tilings[:, 1:].astype(np.float64)
    tiles = np.ceil(np.array([shape.m, shape.n, shape.k]) / edges)
    tile_elements = edges[:, 0] * edges[:, 2] + edges[:, 2] * edges[:, 1] + edges[:, 0] * edges[:, 1]
    read_a = np.where(stays == A_STAYS, 1.0, tiles[:, 1])
    read_b = np.where(stays == B_STAYS, 1.0, tiles[:, 0])
    spilled = np.where(stays == OUTPUTS_STAY, 1.0, tiles[:, 2])
    sizes = np.array([shape.m * shape.k, shape.k * shape.n, 2.0 * shape.m * shape.n])
    moved = np.stack([read_a, read_b, spilled], axis=1) @ sizes
    tiling = [
        *np.log2(edges.T),
        np.log2(tile_elements),
        np.log2(read_a),
        np.log2(read_b),
        np.log2(spilled),
        np.log2(moved),
        (stays == A_STAYS).astype(np.float64),
        (stays == B_STAYS).astype(np.float64),
    ]
    return np.stack([*parallel, *tiling], axis=1)


def _splits(mapper: ItemMapper, shape: ProductShape, cores: Ints, random: np.random.Generator) -> Ints:
    """[S, 5] random splits of a product over at most `cores` [S] cores."""
    count = len(cores)
    rows, cols = mapper.accelerator.tensor_core_rows, mapper.accelerator.tensor_core_cols
    role = random.integers(0, 2, count)
    swapped = role == INPUTS_STATIONARY
    streamed, stationary = np.where(swapped, shape.n, shape.m), np.where(swapped, shape.m, shape.n)
    stream_most, stay_most = -(-streamed // rows), -(-stationary // cols)
    most = np.stack(
        [
            np.full(count, shape.batch),
            np.where(swapped, stay_most, stream_most),
            np.where(swapped, stream_most, stay_most),
            np.full(count, -(-shape.k // rows)),
        ],
        axis=1,
    )
    order = random.random((count, 4)).argsort(axis=1)
    parts = np.ones((count, 5), np.int64)
    parts[:, 4] = role
    left, sample = cores.copy(), np.arange(count)
    for turn in range(4):
        dim = order[:, turn]
        limit = np.minimum(most[sample, dim], left)
        drawn = np.exp(random.random(count) * np.log(limit + 1.0)).astype(np.int64)
        whole = random.random(count) < WHOLE_SPLIT
        chosen = np.where(whole, limit, np.clip(drawn, 1, limit))
        parts[sample, dim] = chosen
        left = left // chosen
    return parts


def _tilings(shape: ProductShape, count: int, random: np.random.Generator) -> Ints:
    """[S, 4] random tilings of a product, edges drawn evenly in their logarithm."""
    stays = random.integers(0, 3, count)
    found = np.empty((count, 4), np.int64)
    found[:, 0] = stays
    coarse = random.random(count) < COARSE_ROWS
    for choice, rough in every((OUTPUTS_STAY, A_STAYS, B_STAYS), (False, True)):
        rows = np.flatnonzero((stays == choice) & (coarse == rough))
        for at, edges in enumerate(shape.edges(choice, coarse=rough), start=1):
            shortest, longest = float(edges[-1]), float(edges[0])
            wanted = np.exp(random.uniform(np.log(shortest), np.log(longest), len(rows)))
            # Edges descend: the longest that is not above the one drawn.
            index = np.searchsorted(-edges, -wanted * (1.0 + 1e-9))
            index = np.where(random.random(len(rows)) < WHOLE_EDGE, 0, np.minimum(index, len(edges) - 1))
            found[rows, at] = edges[index]
    return found


def _smallest(mapper: ItemMapper) -> Mappings:
    """One core, the smallest tiles, outputs on chip: fits always."""
    splits = np.tile(np.array([1, 1, 1, 1, 0], np.int64), (1, len(mapper.shapes), 1))
    smallest = [[OUTPUTS_STAY, *(int(edges[-1]) for edges in shape.edges(OUTPUTS_STAY))] for shape in mapper.shapes]
    return Mappings(step=np.zeros(1, np.int64), splits=splits, tilings=np.array([smallest], np.int64))


def _joined(first: Mappings, second: Mappings) -> Mappings:
    return Mappings(
        step=np.concatenate([first.step, second.step]),
        splits=np.concatenate([first.splits, second.splits]),
        tilings=np.concatenate([first.tilings, second.tilings]),
    )


def _joined_costs(first: MappedCosts, second: MappedCosts) -> MappedCosts:
    return MappedCosts(
        tensor_cores=np.concatenate([first.tensor_cores, second.tensor_cores]),
        vector_cores=np.concatenate([first.vector_cores, second.vector_cores]),
        compute_s=np.concatenate([first.compute_s, second.compute_s]),
        hbm_bytes=np.concatenate([first.hbm_bytes, second.hbm_bytes]),
        sram_bytes=np.concatenate([first.sram_bytes, second.sram_bytes]),
        alone_s=np.concatenate([first.alone_s, second.alone_s]),
    )
