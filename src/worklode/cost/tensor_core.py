"""Cycles and on-chip traffic of a matrix product on systolic tensor cores (docs/models/tensor_core.md).

Letters of the formulas: R, C rows and columns of the array; M, N, K of the product C[M, N] = A[M, K] B[K, N]; p cores.
Every core brings its own ports: R operands in, C stationary operands in and C results out per cycle. The schedules
below never ask for more, so on-chip traffic needs no bound of its own.
"""

# Kernels are one loop nest each.
# ruff: noqa: PLR0912

from __future__ import annotations

import numpy as np

from worklode.cost.compiled import Floats, Ints, compiled

# Bytes of one partial sum: tensor cores accumulate in 32 bits (Accelerator.mac_dtype).
PARTIAL_SUM_BYTES = 4
# Numbers of cores fit into 15 bits of the code of a split [count].
MOST_CORES = 1 << 15
# Roles of the operands on the array.
WEIGHTS_STATIONARY = 0
INPUTS_STATIONARY = 1


def scalesim_weight_stationary_cycles(m: int, n: int, k: int, rows: int, cols: int) -> int:
    """Compute cycles of SCALE-Sim's weight-stationary array [cycles]: no overlap between folds.

    ceil(K/R)·ceil(N/C)·(2R + C + M - 2) - 1. Source: Samajdar et al., SCALE-Sim, arXiv 1811.02883, and ISPASS 2020,
    eq. 3; equal to SCALE-Sim 3.0 on all rows of the reference table (tests/reference/test_systolic.py).
    """
    return -(-k // rows) * -(-n // cols) * (2 * rows + cols + m - 2) - 1


def scalesim_output_stationary_cycles(m: int, n: int, k: int, rows: int, cols: int) -> int:
    """Compute cycles of SCALE-Sim's output-stationary array [cycles]: ceil(M/R)·ceil(N/C)·(R + C + K - 2) - 1."""
    return -(-m // rows) * -(-n // cols) * (rows + cols + k - 2) - 1


def scalesim_input_stationary_cycles(m: int, n: int, k: int, rows: int, cols: int) -> int:
    """Compute cycles of SCALE-Sim's input-stationary array [cycles]: ceil(K/R)·ceil(M/C)·(2R + C + N - 2) - 1."""
    return -(-k // rows) * -(-m // cols) * (2 * rows + cols + n - 2) - 1


def fill_cycles(rows: int, cols: int) -> int:
    """Cycles an operator spends on its first weights in and its last results out [cycles]: 2R + C - 2.

    R to load the first weights, R + C - 2 for the skewed wavefront to leave; later loads hide behind streaming.
    """
    return 2 * rows + cols - 2


@compiled("int64(int64, int64)")
def ceil_ratio(total: int, parts: int) -> int:
    """Size of the largest of `parts` parts of `total`, rounded up."""
    return -(-total // parts)


@compiled("float64(int64, int64, int64, int64, int64, int64)")
def streaming_cycles(batch: int, streamed: int, stationary: int, reduction: int, rows: int, cols: int) -> float:
    """Cycles of `batch` products on one core whose weights are loaded behind the streaming of others [cycles].

    batch·ceil(K/R)·ceil(N/C)·max(M, R): a fold streams M rows, and the next R x C weights need R cycles to come in.
    M is `streamed`, N `stationary`, K `reduction`.

    Small products of a batch share a pass: h = min(R/K, C/N) of them as a block-diagonal weight matrix, whose M rows
    stream once for all h; and g groups of these side by side in the columns, each streaming its own M rows and
    leaving the others' results unused, which pays while g·M <= R. Source of block-diagonal packing: XLA's conversion of
    grouped to dense convolutions (convolution_group_converter).
    """
    k_folds = -(-reduction // rows)
    if batch == 1 or 2 * stationary > cols:
        return float(batch) * k_folds * -(-stationary // cols) * max(streamed, rows)
    side_by_side = min(cols // stationary, batch)
    stacked = min(max(1, rows // reduction), side_by_side)
    best = np.inf
    for groups in (rows // streamed, rows // streamed + 1):
        used = max(1, min(side_by_side // stacked, groups))
        passes = -(-batch // (stacked * used))
        best = min(best, float(passes) * k_folds * max(used * streamed, rows))
    return best


@compiled("float64(float64, int64, int64)")
def reduction_cycles(outputs: float, k_parts: int, cols: int) -> float:
    """Cycles to add up the partial sums of `k_parts` cores that share a K [cycles].

    2·(s - 1)/s·outputs/C: a reduce-scatter through SRAM. Each of s cores writes the partial sums of the parts it does
    not own and reads those of the part it owns, C per cycle through its result port; its accumulators add them.
    """
    return float(np.ceil(2.0 * (k_parts - 1) / k_parts * outputs / cols))


@compiled("int64(int64, int64, int64[::1])")
def useful_parts(total: int, limit: int, parts: Ints) -> int:
    """Numbers of parts <= limit that make the largest part ceil(total/parts) smaller than fewer parts do; the count.

    About 2·sqrt(total) values; every other number of parts costs cores and gains nothing.
    """
    count = 0
    part = 1
    while part <= limit:
        parts[count] = part
        count += 1
        largest = -(-total // part)
        if largest == 1:
            break
        part = -(-total // (largest - 1))
    return count


@compiled("float64(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)")
def on_chip_bytes(
    batch: int,
    streamed: int,
    stationary: int,
    reduction: int,
    streamed_parts: int,
    stationary_parts: int,
    k_parts: int,
    cols: int,
    accumulator_rows: int,
    element_bytes: int,
) -> float:
    """Traffic between SRAM and the tensor cores [bytes].

    The streamed operand is read once for every fold of C columns, the stationary one once for every `accumulator_rows`
    rows and part of the streamed dimension, results are written once; s parts of K write and read (s - 1) partial sums
    of every result besides.
    """
    column_folds = stationary_parts * ceil_ratio(ceil_ratio(stationary, stationary_parts), cols)
    row_passes = streamed_parts * ceil_ratio(ceil_ratio(streamed, streamed_parts), accumulator_rows)
    results = float(batch) * streamed * stationary
    operands = float(batch) * reduction * (float(streamed) * column_folds + float(stationary) * row_passes)
    return (operands + results) * element_bytes + 2.0 * (k_parts - 1) * results * PARTIAL_SUM_BYTES


@compiled(
    "void(int64, int64, int64, int64, int64, int64, int64, int64[:, ::1], float64[::1], float64[::1], int64[::1])"
)
def split_cycles(
    batch: int,
    streamed: int,
    stationary: int,
    reduction: int,
    rows: int,
    cols: int,
    most_cores: int,
    parts: Ints,
    rows_cycles: Floats,
    best: Floats,
    code: Ints,
) -> None:
    """Least cycles of a product, in one role of its operands, on exactly p cores, fill left out.

    Args:
        batch, streamed, stationary, reduction: sizes.
        rows, cols: of the array.
        most_cores: P.
        parts: scratch, [3, P].
        rows_cycles: scratch, [P + 1].
        best: out, [P + 1] cycles, infinite where no useful split takes that many.
        code: out, [P + 1] the split, as `decoded` reads it.
    """
    k_folds, n_folds = -(-reduction // rows), -(-stationary // cols)
    packs = batch > 1 and 2 * stationary <= cols
    most_m = min(most_cores, -(-streamed // rows))
    k_count = useful_parts(k_folds, most_cores, parts[0])
    n_count = useful_parts(n_folds, most_cores, parts[1])
    b_count = useful_parts(batch, most_cores, parts[2])
    for p in range(most_cores + 1):
        best[p] = np.inf
    for pm in range(1, most_m + 1):
        rows_cycles[pm] = max(-(-streamed // pm), rows)
    for k_index in range(k_count):
        pk = parts[0, k_index]
        k_fold = -(-k_folds // pk)
        k_part = min(reduction, k_fold * rows)
        for n_index in range(n_count):
            pn = parts[1, n_index]
            if pk * pn > most_cores:
                break
            n_fold = -(-n_folds // pn)
            n_part = min(stationary, n_fold * cols)
            for b_index in range(b_count):
                pb = parts[2, b_index]
                outer = pk * pn * pb
                if outer > most_cores:
                    break
                b_part = -(-batch // pb)
                stacked = min(max(1, rows // k_part), cols // n_part, b_part) if packs else 1
                folds = float(-(-b_part // stacked)) * k_fold * n_fold
                name = ((pk << 15 | pn) << 15 | pb) << 15
                most = min(most_m, most_cores // outer)
                if pk == 1 and not packs:
                    # Among equals: few parts of the streamed dimension, so that cores share weights.
                    for pm in range(1, most + 1):
                        total = folds * rows_cycles[pm]
                        if total <= best[outer * pm]:
                            best[outer * pm] = total
                            code[outer * pm] = name | pm
                    continue
                for pm in range(1, most + 1):
                    m_part = -(-streamed // pm)
                    # As `streaming_cycles` has it, which only matters in full where loading weights does.
                    if packs and m_part < rows:
                        total = streaming_cycles(b_part, m_part, n_part, k_part, rows, cols)
                    else:
                        total = folds * rows_cycles[pm]
                    if pk > 1:
                        total += reduction_cycles(float(b_part) * m_part * n_part, pk, cols)
                    if total < best[outer * pm] or (pk == 1 and total == best[outer * pm]):
                        best[outer * pm] = total
                        code[outer * pm] = name | pm


@compiled("UniTuple(int64, 4)(int64)")
def decoded(code: int) -> tuple[int, int, int, int]:
    """Parts along (batch, streamed dimension, stationary dimension, K) of a code of `split_cycles`."""
    mask = MOST_CORES - 1
    return code >> 15 & mask, code & mask, code >> 30 & mask, code >> 45


@compiled(
    "void(int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], float64[::1], int64, int64, int64, int64,"
    " float64[:, ::1], float64[:, ::1], int64[:, :, ::1])"
)
def split_table(
    batch: Ints,
    m: Ints,
    n: Ints,
    k: Ints,
    element_bytes: Ints,
    executed: Floats,
    rows: int,
    cols: int,
    accumulator_rows: int,
    most_cores: int,
    cycles: Floats,
    sram_bytes: Floats,
    split: Ints,
) -> None:
    """Least cycles of every product on at most p cores, for all p up to `most_cores`.

    Every split of a product into parts along batch, M, N and K is tried (N and K in whole folds, the streamed dimension
    down to R rows), in both roles of the operands.

    Args:
        batch, m, n, k: [U] sizes.
        element_bytes: [U] size of an operand [bytes].
        executed: [U] share of the product that is executed (causal masks).
        rows, cols: of the array.
        accumulator_rows: rows of C partial sums a core keeps; more rows load their weights again.
        most_cores: P, less than `MOST_CORES`.
        cycles: out, [U, P + 1] cycles on at most p cores, fill included, not increasing in p; column 0 unused.
        sram_bytes: out, [U, P + 1] traffic between SRAM and the cores [bytes] of that split.
        split: out, [U, P + 1, 5] parts along (batch, m, n, k) and role.
    """
    parts = np.empty((3, most_cores), np.int64)
    rows_cycles = np.empty(most_cores + 1)
    best = np.empty((2, most_cores + 1))
    code = np.zeros((2, most_cores + 1), np.int64)
    fill = float(2 * rows + cols - 2)
    for u in range(len(m)):
        split_cycles(batch[u], m[u], n[u], k[u], rows, cols, most_cores, parts, rows_cycles, best[0], code[0])
        split_cycles(batch[u], n[u], m[u], k[u], rows, cols, most_cores, parts, rows_cycles, best[1], code[1])
        least = np.inf
        for p in range(1, most_cores + 1):
            role = 1 if best[1, p] < best[0, p] else 0
            if best[role, p] >= least:
                cycles[u, p] = cycles[u, p - 1]
                sram_bytes[u, p] = sram_bytes[u, p - 1]
                split[u, p] = split[u, p - 1]
                continue
            least = best[role, p]
            pb, ps, pt, pk = decoded(code[role, p])
            streamed, stationary = (m[u], n[u]) if role == 0 else (n[u], m[u])
            cycles[u, p] = np.ceil(least * executed[u]) + fill
            sram_bytes[u, p] = executed[u] * on_chip_bytes(
                batch[u], streamed, stationary, k[u], ps, pt, pk, cols, accumulator_rows, element_bytes[u]
            )
            split[u, p, 0] = pb
            split[u, p, 1] = ps if role == 0 else pt
            split[u, p, 2] = pt if role == 0 else ps
            split[u, p, 3] = pk
            split[u, p, 4] = role


@compiled("void(int64[::1], int64[::1], int64[::1], int64[::1], float64[::1], int64, int64, float64[::1])")
def least_core_cycles(
    batch: Ints, m: Ints, n: Ints, k: Ints, executed: Floats, rows: int, cols: int, cycles: Floats
) -> None:
    """Lower bound of cores x cycles of every product under any split over any number of cores, into `cycles` [U].

    One core spends least where products do not share passes: splitting only rounds up again. Where they do, rounding is
    left out: batch·ceil(K/R)·max(M/h, R/w) with w = C/N products side by side and h <= min(R/K, w) of them stacked.
    """
    fill = 2 * rows + cols - 2
    for u in range(len(m)):
        best = np.inf
        for role in range(2):
            streamed, stationary = (m[u], n[u]) if role == 0 else (n[u], m[u])
            if batch[u] > 1 and 2 * stationary <= cols:
                side_by_side = min(cols // stationary, batch[u])
                stacked = min(max(1, rows // k[u]), side_by_side)
                folds = float(batch[u]) * -(-k[u] // rows)
                best = min(best, folds * max(streamed / stacked, rows / side_by_side))
            else:
                best = min(best, streaming_cycles(batch[u], streamed, stationary, k[u], rows, cols))
        cycles[u] = best * executed[u] + fill


@compiled(
    "void(int64, int64, int64, int64, int64, int64, int64, float64, int64, int64[:, ::1], float64[::1], float64[::1])"
)
def mapped_cycles(
    batch: int,
    m: int,
    n: int,
    k: int,
    rows: int,
    cols: int,
    accumulator_rows: int,
    executed: float,
    element_bytes: int,
    splits: Ints,
    cycles: Floats,
    sram_bytes: Floats,
) -> None:
    """Cycles and on-chip traffic of one product under [S] given splits, fill included: what `split_table` minimises.

    A split that no core could carry out is infinite: more parts along K or the stationary dimension than there are
    folds, more along the batch than it has products, more along the streamed dimension than there are blocks of R rows.

    Args:
        batch, m, n, k, rows, cols, accumulator_rows, executed, element_bytes: as in `split_table`.
        splits: [S, 5] parts along (batch, m, n, k) and role.
        cycles, sram_bytes: out, [S].
    """
    fill = float(2 * rows + cols - 2)
    for s in range(len(splits)):
        pb, pk, role = splits[s, 0], splits[s, 3], splits[s, 4]
        streamed, stationary, ps, pt = m, n, splits[s, 1], splits[s, 2]
        if role == INPUTS_STATIONARY:
            streamed, stationary, ps, pt = n, m, splits[s, 2], splits[s, 1]
        k_folds, n_folds = -(-k // rows), -(-stationary // cols)
        cycles[s] = np.inf
        sram_bytes[s] = np.inf
        if min(pb, ps, pt, pk) < 1 or pk > k_folds or pt > n_folds or pb > batch or ps > -(-streamed // rows):
            continue
        packs = batch > 1 and 2 * stationary <= cols
        k_fold, n_fold = -(-k_folds // pk), -(-n_folds // pt)
        k_part, n_part = min(k, k_fold * rows), min(stationary, n_fold * cols)
        b_part, m_part = -(-batch // pb), -(-streamed // ps)
        if packs and m_part < rows:
            total = streaming_cycles(b_part, m_part, n_part, k_part, rows, cols)
        else:
            stacked = min(max(1, rows // k_part), cols // n_part, b_part) if packs else 1
            total = float(-(-b_part // stacked)) * k_fold * n_fold * max(m_part, rows)
        if pk > 1:
            total += reduction_cycles(float(b_part) * m_part * n_part, pk, cols)
        cycles[s] = np.ceil(total * executed) + fill
        sram_bytes[s] = executed * on_chip_bytes(
            batch, streamed, stationary, k, ps, pt, pk, cols, accumulator_rows, element_bytes
        )
