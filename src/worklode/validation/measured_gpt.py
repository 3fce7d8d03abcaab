"""GPTs as the measured programs ran them: Megatron-LM's kernels, any size, divided for a parallel setting."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from worklode.frontend import CaptureOptions, capture
from worklode.graph.fusion import FusionOptions
from worklode.graph.training_graph import TrainingGraph
from worklode.hardware.technology import load_technology
from worklode.partition.recompute import RecomputePolicy
from worklode.search.parallel import ParallelSetting
from worklode.search.segment_costs import DividedModel
from worklode.search.training_step import divided_model

PRESET = "a100-80gb"
# Equal layers: of three captured ones, the middle one stands for all.
CAPTURED_LAYERS = 3
# What the measured programs fused by hand is scale, mask and softmax, bias and GELU, and bias, dropout and residual
# (arXiv 2104.04473, section 4.2); the attention's dropout is a module of its own, and where autograd adds gradients or
# sums them for a bias, that is a kernel of its own (megatron/model/transformer.py@00baee46). Products are plain library
# calls, attention is written out. Biases are added by the captured products.
KERNELS = FusionOptions(
    attention=False,
    epilogues=False,
    prologues=False,
    kernels=(
        frozenset({"aten.mul", "aten.masked_fill", "aten._softmax"}),
        frozenset({"aten._softmax_backward_data", "aten.masked_fill", "aten.mul"}),
        frozenset({"aten.native_dropout", "aten.add"}),
    ),
)
# With gradient accumulation fusion, Megatron-LM's default where apex is there (megatron/arguments.py, from 2022 on).
ADDING_KERNELS = replace(KERNELS, epilogues=True, kernels=(*KERNELS.kernels, frozenset({"aten.mm", "accumulate"})))


@lru_cache(maxsize=64)
def divided_gpt(
    hidden: int,
    heads: int,
    seq_len: int,
    microbatch: int,
    tensor: int,
    sequence_parallel: bool,
    policy: RecomputePolicy,
    adding_products: bool = False,
) -> DividedModel:
    """One microbatch of a GPT of three layers, the middle one standing for all between the first and the last.

    `adding_products`: products add to the gradients of other microbatches.
    """
    setting = ParallelSetting(
        tensor=tensor,
        global_batch=microbatch,
        microbatch=microbatch,
        sequence_parallel=sequence_parallel,
        recompute=policy,
        recompute_early_stop=False,
    )
    graph = _captured(hidden, heads, seq_len, microbatch)
    return divided_model(graph, setting, load_technology(None), fusion=ADDING_KERNELS if adding_products else KERNELS)


@lru_cache(maxsize=64)
def _captured(hidden: int, heads: int, seq_len: int, microbatch: int) -> TrainingGraph:
    name = f"gpt:layers={CAPTURED_LAYERS},hidden={hidden},heads={heads},attention=written-out"
    return capture(name, CaptureOptions(batch=microbatch, seq_len=seq_len))
