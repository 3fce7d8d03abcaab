"""What every workload function of the zoo shares: its result type, the check of its shape, ids and token losses.

A workload function returns `(module, inputs, loss, optimizer)` and computes no weight and reads no value, so it can be
called under `torch.device("meta")` or fake tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from worklode.errors import Fault, SpecError

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
Loss = Callable[[Any], Tensor]
Workload = tuple[nn.Module, Inputs, Loss, str]


def check_shape(
    name: str, *, batch: int, seq_len: int | None = None, longest: int | None = None, smallest_batch: int = 1
) -> None:
    """Refuse a batch or sequence length the workload has no meaning for.

    Args:
        name: zoo name, for the message.
        batch: samples of one iteration.
        seq_len: tokens of one sample, None where the input is no sequence.
        longest: rows of the learned position table, None where any length works.
        smallest_batch: least number of samples the step is defined for.

    Raises:
        SpecError: with every fault found.
    """
    faults = []
    if batch < smallest_batch:
        allowed = f"{smallest_batch} or more"
        faults.append(Fault(where=name, path="batch", value=str(batch), problem="is too small", allowed=allowed))
    if seq_len is not None and (seq_len < 1 or (longest is not None and seq_len > longest)):
        allowed = "1 or more" if longest is None else f"1 to {longest} (the published position table)"
        faults.append(Fault(where=name, path="seq_len", value=str(seq_len), problem="is out of range", allowed=allowed))
    if faults:
        raise SpecError(*faults)


def random_ids(limit: int, *shape: int) -> Tensor:
    """Ids below `limit` (tokens, classes, table rows), int64, on the default device."""
    return torch.randint(limit, shape)


def token_cross_entropy(targets: Tensor, label_smoothing: float = 0.0) -> Loss:
    """Mean cross-entropy of logits [..., classes] against class ids `targets` [...]."""

    def loss(logits: Tensor) -> Tensor:
        return functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), label_smoothing=label_smoothing)

    return loss
