"""What fusion may be told, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from worklode.graph.training_graph import TrainingGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionOptions:
    """Which fusions to try; all by default.

    Attributes:
        streaming: elementwise operators, movements and reductions with one another and with normalisations, softmax and
            gathers, along the data they hand on.
        epilogues: the same behind matrix products, convolutions and attention.
        attention: product, row-wise softmax, product as one chained operator.
        prologues: elementwise operators in front of a product, where the product then reads no more bytes.
        multi_tensor_updates: updates of a block instance's parameters, or of neighbours outside blocks, as one.
        wait_for_siblings: an epilogue may take the result of another product that could run beside its own (the up
            projection of a gated layer), which then has to come first. Off: it saved 1 % of the HBM bytes of Llama-2-7B
            and lengthened its critical path by 27 %.
        max_row_bytes: longest row a reduction and its readers keep on chip between them [bytes]. Assumption: 1 MiB, a
            vocabulary of 256 Ki logits in float32; below it even the smallest preset's SRAM holds a row.
        update_share: weight updates outside blocks are grouped while a group moves at most this share of the bytes all
            updates move [1]. Assumption, from the figures in docs/models/fusion.md: 1/64 bounds their number by 64 and
            what the last group adds to the end of the iteration by a 64th of the optimizer's time.
        kernels: sets of names of operators. Where there are any, operators run as one along the data only if one set
            has all of their names: for a program whose kernels are known. Empty: whatever is legal.
    """

    streaming: bool = True
    epilogues: bool = True
    attention: bool = True
    prologues: bool = True
    multi_tensor_updates: bool = True
    wait_for_siblings: bool = False
    max_row_bytes: int = 2**20
    update_share: float = 1 / 64
    kernels: tuple[frozenset[str], ...] = ()


class FusionPattern(StrEnum):
    """What a fused operator is, by its anchor; for the report."""

    ATTENTION = "attention chain"
    PRODUCT = "product with neighbours"
    NORMALIZATION = "normalisation with neighbours"
    SOFTMAX = "softmax with neighbours"
    ROWS = "row-wise reduction with neighbours"
    REDUCTION = "elementwise into reduction"
    GATHER = "gather or pooling with neighbours"
    ELEMENTWISE = "elementwise region"
    UPDATE = "update of one parameter"
    UPDATES = "multi-tensor update"


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternCount:
    """How often a pattern was fused: groups made, and operators that went into them."""

    pattern: FusionPattern
    groups: int
    operators: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionReport:
    """A graph before and after fusion.

    Attributes:
        operators_before, operators_after: operators of the iteration.
        distinct_before, distinct_after: distinct work items among them, which decide the time to cost a graph.
        hbm_bytes_before, hbm_bytes_after: compulsory HBM traffic [bytes].
        tensors_eliminated: tensors that no longer exist in HBM.
        patterns: what was fused, most operators first.
    """

    operators_before: int
    operators_after: int
    distinct_before: int
    distinct_after: int
    hbm_bytes_before: int
    hbm_bytes_after: int
    tensors_eliminated: int
    patterns: tuple[PatternCount, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FusionResult:
    """The fused graph and what was done to it."""

    graph: TrainingGraph
    report: FusionReport
