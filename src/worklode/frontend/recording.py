"""What the recorder writes down: light records of dispatched operators, and what it knew about their storages.

A record names its call by index, so that equal calls (the 96 layers of GPT-3) are described once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from worklode.frontend.call import Call
from worklode.graph.operator import Phase, TensorRole


class Record(NamedTuple):
    """One operator as it ran.

    Attributes:
        call: index into `Recording.calls`.
        inputs, outputs: storages behind `Call.inputs` and `Call.outputs`.
        phase: when it ran.
        module: qualified name of the module it belongs to, "" outside of all.
    """

    call: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    phase: Phase
    module: str


@dataclass(slots=True, kw_only=True)
class Recording:
    """Everything recorded of one training step. Storages are numbered in order of first appearance.

    Attributes:
        records: operators in the order they ran, views and allocations left out.
        calls: distinct calls (operator, shapes, strides, types, other arguments).
        storage_bytes: size of every storage [bytes].
        roles: storage -> role and name, for those that are more than activations.
        dtypes: storage -> element type of the tensor it was first seen with.
        notes: decision taken on the user's behalf -> how often.
        embedded_inputs: element counts of the inputs that embedding tables were indexed with.
    """

    records: list[Record] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    storage_bytes: list[int] = field(default_factory=list)
    roles: dict[int, tuple[TensorRole, str]] = field(default_factory=dict)
    dtypes: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    embedded_inputs: list[int] = field(default_factory=list)
