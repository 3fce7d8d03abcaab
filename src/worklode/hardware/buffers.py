"""Local buffers and port widths of the cores: the written rules for what a design does not state.

Every function works on one accelerator and, element by element, on arrays of designs (docs/models/accelerator.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from worklode.hardware.design import ACCUMULATOR_BYTES, LANE_BYTES, OPERAND_BYTES, Design

LANE_REGISTERS = 32
"""Architectural vector registers per lane: 32 vector registers in TPUv2 and TPUv3 (Norrie et al., IEEE Micro 2021)."""

SIMT_BYTES_PER_LANE = 2048
"""Registers of all resident threads per lane of a multiprocessor [bytes]: H100, 256 KiB for 128 lanes (white paper
2022; A100 has 4096)."""

SIMT_BYTES_PER_MAC = 128
"""L1 and shared memory per multiply-accumulate unit of a multiprocessor [bytes]: H100, 256 KiB for 4 x 512 (white paper
2022; A100 has 192)."""


def tensor_core_buffer_bytes(design: Design) -> Any:
    """Local buffer of one tensor core [bytes]: as stated, else the rule below.

    A weight-stationary array streams blocks of M rows through loaded weights. Loading the next weights takes
    max(rows, cols) cycles at most, so a block of M = max(rows, cols) rows hides it. Two blocks (one streaming, one
    filling or draining) of M·rows operands and M·cols accumulators:

        2 max(rows, cols) (rows · operand bytes + cols · 4)

    A multiprocessor (`simt`) keeps whole tiles for its threads instead: `SIMT_BYTES_PER_MAC` for each unit.
    """
    if design.tensor_core_buffer_bytes is not None:
        return design.tensor_core_buffer_bytes
    if design.family == "simt":
        return design.tensor_core_rows * design.tensor_core_cols * SIMT_BYTES_PER_MAC
    block_rows = np.maximum(design.tensor_core_rows, design.tensor_core_cols)
    row_bytes = design.tensor_core_rows * OPERAND_BYTES[design.mac_dtype] + design.tensor_core_cols * ACCUMULATOR_BYTES
    return 2 * block_rows * row_bytes


def vector_core_buffer_bytes(design: Design) -> Any:
    """Local buffer of one vector core [bytes]: as stated, else its registers.

    32 words of 4 bytes per lane; in a multiprocessor (`simt`) those of all resident threads, `SIMT_BYTES_PER_LANE`.
    """
    if design.vector_core_buffer_bytes is not None:
        return design.vector_core_buffer_bytes
    if design.family == "simt":
        return design.vector_lanes * SIMT_BYTES_PER_LANE
    return design.vector_lanes * (LANE_REGISTERS * LANE_BYTES)


def tensor_core_port_bytes(design: Design) -> Any:
    """Width of the port of one tensor core to global SRAM [bytes per cycle].

    Every cycle one operand enters each row; weights enter, or rounded results leave, at one operand per column.
    """
    return (design.tensor_core_rows + design.tensor_core_cols) * OPERAND_BYTES[design.mac_dtype]


def vector_core_port_bytes(design: Design) -> Any:
    """Width of the port of one vector core to global SRAM [bytes per cycle]: one 4-byte word per lane."""
    return design.vector_lanes * LANE_BYTES


def tensor_core_operand_bytes(design: Design) -> Any:
    """Traffic of one tensor core with its local buffer at full rate [bytes per cycle].

    An operand per row and one per column (next weights, amortised at worst one block), and the partial sum of each
    column read and written: rows · operand + cols · (operand + 2 · 4). Small arrays pay more of it per MAC.
    """
    operand = OPERAND_BYTES[design.mac_dtype]
    return design.tensor_core_rows * operand + design.tensor_core_cols * (operand + 2 * ACCUMULATOR_BYTES)
