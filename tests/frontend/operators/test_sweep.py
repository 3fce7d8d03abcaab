"""A sweep of PyTorch's layers and optimizers: everything is described, and no description says more than it may."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import pytest
import torch

from worklode.frontend.call import Call, Description
from worklode.frontend.operators import TABLE, describe, known
from worklode.graph.operator import OperatorKind

from .layers import IMPLEMENTATIONS, LAYERS, OPTIMIZERS, optimizer_step
from .recording import dispatched

# Operators left to the fallback: factorisations with data-dependent iterations or library kernels, special functions.
FALLBACK = {
    "_linalg_check_errors",
    "_linalg_eigh",
    "_linalg_solve_ex",
    "_linalg_svd",
    "digamma",
    "lgamma",
    "linalg_cholesky_ex",
    "linalg_inv_ex",
    "linalg_lu_solve",
    "linalg_solve_triangular",
}
# Kinds that only move or allocate: their lanes may be idle.
FREE = {OperatorKind.MOVEMENT}


@cache
def every_call() -> tuple[Call, ...]:
    """Every distinct call of the sweep, LSTM and attention both fused and taken apart."""
    torch.manual_seed(0)
    calls: dict[Call, None] = {}
    for fused in (True, False):
        torch.backends.mkldnn.enabled = fused  # type: ignore[assignment]
        for layer in LAYERS:
            calls |= dict.fromkeys(dispatched(layer.step))
    torch.backends.mkldnn.enabled = True  # type: ignore[assignment]
    for name in OPTIMIZERS:
        for implementation in IMPLEMENTATIONS:
            step = optimizer_step(name, implementation)
            if step is not None:
                calls |= dict.fromkeys(dispatched(step))
    return tuple(c for c in calls if c.name.startswith("aten."))


@cache
def every_description() -> tuple[tuple[Call, tuple[Description, ...]], ...]:
    return tuple((call, describe(call)) for call in every_call())


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # torch's advice on the layers swept


def test_only_named_operators_fall_back() -> None:
    fallen = {c.packet for c, parts in every_description() if not all(part.exact for part in parts)}
    assert fallen == FALLBACK
    assert {c.packet for c, _ in every_description() if not known(c.packet)} == FALLBACK


def test_the_sweep_is_broad() -> None:
    packets = {call.packet for call in every_call()}
    assert len(packets) > 330
    assert len(every_call()) > 1500
    assert len(TABLE) > 550


def test_fallback_charges_bytes_once_and_an_operation_an_element() -> None:
    for call, parts in every_description():
        if call.packet in FALLBACK:
            (part,) = parts
            assert part.kind is OperatorKind.FALLBACK
            assert part.read_bytes == tuple(t.bytes for t in call.inputs)
            assert part.work.simple_ops == max(t.elements for t in (*call.inputs, *call.outputs))


def test_bytes_never_exceed_the_tensors() -> None:
    for call, parts in every_description():
        for part in parts:
            assert len(part.read_bytes) == len(call.inputs), call.name
            assert len(part.write_bytes) == len(call.outputs), call.name
            for tensor, count in zip((*call.inputs, *call.outputs), (*part.read_bytes, *part.write_bytes), strict=True):
                assert 0 <= count <= tensor.bytes, call.name
                assert count % tensor.element_bytes == 0, call.name


def test_every_result_is_made_by_exactly_one_part() -> None:
    for call, parts in every_description():
        made = [index for part in parts for index in part.outputs]
        assert len(made) == len(set(made)), call.name
        assert set(made) <= set(range(len(call.outputs))), call.name
        for part in parts:
            written = {index for index, count in enumerate(part.write_bytes) if count}
            assert written <= set(part.outputs), call.name


def test_work_is_never_negative_and_streams_what_it_touches() -> None:
    for call, parts in every_description():
        for part in parts:
            work = part.work
            counts = (work.simple_ops, work.special_ops, work.vector_elements, work.reduction_bytes)
            assert min(counts) >= 0, call.name
            assert min(work.random_accesses, work.random_access_bytes, work.serial_steps) >= 0, call.name
            assert (work.random_accesses > 0) == (work.random_access_bytes > 0), call.name
            if work.products:
                continue
            touched = sum(
                count // tensor.element_bytes
                for tensor, count in zip(
                    (*call.inputs, *call.outputs), (*part.read_bytes, *part.write_bytes), strict=True
                )
            )
            assert work.vector_elements == touched, call.name


def test_groups_that_are_held_are_no_larger_than_what_is_read() -> None:
    for call, parts in every_description():
        for part in parts:
            assert part.work.reduction_bytes <= sum(part.read_bytes), call.name


def test_only_views_allocations_and_moves_are_free_of_arithmetic() -> None:
    for call, parts in every_description():
        for part in parts:
            work = part.work
            if work.flops == 0 and any(t.elements for t in call.outputs):
                # a gradient that is only zeros still writes; a sum over one element or a lost reduction adds nothing
                single = all(t.elements <= 1 for t in call.inputs) or call.packet.startswith(("sum", "mm", "bmm"))
                assert part.kind in FREE or single, call.name


def test_description_of_a_call_is_the_same_every_time() -> None:
    for call, parts in every_description():
        assert describe(call) == parts
        assert hash(call) == hash(call)


@pytest.mark.parametrize("packet", ["mm_typo", "brand_new_operator"])
def test_unknown_operators_are_not_known(packet: str) -> None:
    assert not known(packet)
    call = Call(name=f"aten.{packet}.default", args=())
    (description,) = describe(call)
    assert not description.exact


def test_the_table_needs_no_torch() -> None:
    code = "import sys, worklode.frontend.operators; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_other_namespaces_fall_back_even_with_a_familiar_name() -> None:
    (description,) = describe(Call(name="mylib.add.Tensor", args=()))
    assert not description.exact
