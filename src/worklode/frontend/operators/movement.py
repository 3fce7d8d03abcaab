"""Views, allocations, constants, copies and rearrangements: no arithmetic, one move per element written."""

from __future__ import annotations

from worklode.frontend.call import Call, Description, TensorMeta
from worklode.frontend.operators.rule import (
    Lanes,
    Rule,
    first_output,
    on_lanes,
    same_rule,
    tensor,
    tensors_in,
)
from worklode.graph.operator import OperatorKind
from worklode.graph.work import Work

MOVEMENT = OperatorKind.MOVEMENT


def free(call: Call) -> tuple[Description, ...]:
    """A view, an allocation or bookkeeping of the framework: nothing moves."""
    return (
        Description(
            kind=MOVEMENT,
            work=Work(),
            read_bytes=(0,) * len(call.inputs),
            write_bytes=(0,) * len(call.outputs),
            outputs=tuple(range(len(call.outputs))),
        ),
    )


def made(call: Call) -> int:
    """Elements of all results."""
    return sum(t.elements for t in call.outputs)


def constant(per_element: int) -> Rule:
    """Rule of a tensor made from nothing: `per_element` operations each; operands give shape and dtype only."""

    def rule(call: Call) -> tuple[Description, ...]:
        unread = {i: 0 for i, value in enumerate(call.args) if any(tensors_in(value))}
        value = call.args[1] if call.packet.startswith("fill") and len(call.args) > 1 else None
        if isinstance(value, TensorMeta):
            del unread[1]
        return on_lanes(call, MOVEMENT, Lanes(per_element * made(call)), reads=unread)

    return rule


def copy(call: Call) -> tuple[Description, ...]:
    """`clone`, `_to_copy`, `copy_`, ...: one move an element; element-wise work where the dtype changes.

    The destination is not read; a source that is broadcast is read once.
    """
    has_destination = call.packet.strip("_").removeprefix("foreach_") in {"copy", "copy_from", "copy_from_and_resize"}
    source = tensor(call, 1 if has_destination and not call.packet.startswith("_copy_from") else 0)
    result = first_output(call)
    converts = result is not None and result.dtype != source.dtype
    kind = OperatorKind.ELEMENTWISE if converts else MOVEMENT
    destination = {"copy": 0, "copy_": 0, "_foreach_copy": 0, "_foreach_copy_": 0}.get(call.packet, 1)
    return on_lanes(call, kind, Lanes(made(call)), reads={destination: 0} if has_destination else None)


def rearrange(call: Call) -> tuple[Description, ...]:
    """`cat`, `stack`, `roll`, `flip`, `repeat`, pads, ...: one move per element written, operands read once.

    Where less is written than an operand has (`slice_copy`, a negative pad), only that much of it is read.
    """
    written = sum(t.bytes for t in call.outputs)
    return on_lanes(call, MOVEMENT, Lanes(made(call)), reads={0: written})


def pad_backward(call: Call) -> tuple[Description, ...]:
    """Gradient of a reflection or replication pad: zeros, and an add per element of the padded gradient."""
    return on_lanes(call, MOVEMENT, Lanes(made(call) + tensor(call, 0).elements), reads={1: 0})


def spread(call: Call) -> tuple[Description, ...]:
    """`slice_backward`, `select_backward`, `diag_embed`, ...: zeros with a smaller tensor laid into them."""
    return on_lanes(call, MOVEMENT, Lanes(made(call)))


def accumulate_windows(call: Call) -> tuple[Description, ...]:
    """`unfold_backward`, `col2im`: zeros, and an add per element of the windows."""
    return on_lanes(call, MOVEMENT, Lanes(made(call) + tensor(call, 0).elements))


def lay_over(call: Call) -> tuple[Description, ...]:
    """`slice_scatter(x, y)`, ...: x is copied but for the region that y covers."""
    x, y = tensor(call, 0), tensor(call, 1)
    return on_lanes(call, MOVEMENT, Lanes(made(call)), reads={0: max(0, x.bytes - y.elements * x.element_bytes)})


def triangle(call: Call) -> tuple[Description, ...]:
    """`tril`, `triu`: a compare of indices and a select per element."""
    return on_lanes(call, MOVEMENT, Lanes(2 * made(call)))


def scalar_read(call: Call) -> tuple[Description, ...]:
    """`_local_scalar_dense`: one element goes to the host."""
    return on_lanes(call, MOVEMENT, Lanes(), reads={0: tensor(call, 0).element_bytes})


VIEWS = (
    "view", "_unsafe_view", "reshape", "_reshape_alias", "t", "transpose", "permute", "expand", "expand_as", "slice",
    "select", "narrow", "split", "split_with_sizes", "chunk", "unbind", "squeeze", "unsqueeze", "detach", "alias",
    "as_strided", "diagonal", "unfold", "view_as_real", "view_as_complex", "view_as", "real", "imag", "_conj",
    "_neg_view", "conj", "resolve_conj", "resolve_neg", "flatten", "unflatten", "movedim", "swapaxes", "swapdims",
    "adjoint", "mT", "mH", "lift_fresh", "lift", "values", "indices", "_values", "_indices", "crow_indices",
    "_unsafe_split", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes", "contiguous", "numpy_T", "positive",
)  # fmt: skip
ALLOCATIONS = (
    "empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided", "resize", "set",
    "resize_as", "_resize_output", "_efficientzerotensor", "_coalesced", "_sparse_coo_tensor_unsafe",
    "_sparse_coo_tensor_with_dims_and_tensors", "record_stream", "requires_grad", "_version", "is_same_size",
    "_assert_async", "_assert_scalar", "_functional_assert_async", "sym_constrain_range",
    "sym_constrain_range_for_size", "_assert_tensor_metadata", "_cudnn_init_dropout_state",
)  # fmt: skip
CONSTANTS = (
    "zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "fill",
    "zero", "scalar_tensor", "eye", "tril_indices", "triu_indices",
)  # fmt: skip
RANGES = ("arange", "linspace", "logspace", "range")
REARRANGEMENTS = (
    "cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "_chunk_cat", "constant_pad_nd",
    "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d",
    "replication_pad3d", "roll", "flip", "fliplr", "flipud", "rot90", "repeat", "tile", "pixel_shuffle",
    "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "im2col", "permute_copy", "slice_copy",
    "select_copy", "split_copy", "split_with_sizes_copy", "unbind_copy", "transpose_copy", "t_copy", "expand_copy",
    "squeeze_copy", "unsqueeze_copy", "as_strided_copy", "unfold_copy", "diagonal_copy", "alias_copy", "detach_copy",
    "view_copy", "diag", "block_diag", "cartesian_prod", "_pack_padded_sequence", "_pad_packed_sequence",
    "repeat_interleave", "narrow_copy",
)  # fmt: skip
PADS = ("reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d",
        "replication_pad3d")  # fmt: skip

WINDOWS = {"hann_window": Lanes(3, 1), "hamming_window": Lanes(4, 1), "blackman_window": Lanes(6, 2)}


def window(per_element: Lanes) -> Rule:
    """Rule of a window function: a - b·cos(c·i) and the like."""
    return lambda call: on_lanes(call, MOVEMENT, per_element.times(made(call)))


RULES: dict[str, Rule] = {
    **{name: window(per_element) for name, per_element in WINDOWS.items()},
    **same_rule(free, *VIEWS, *ALLOCATIONS),
    **same_rule(constant(1), *CONSTANTS),
    **same_rule(constant(2), *RANGES),  # start + i·step
    **same_rule(copy, "copy", "clone", "_to_copy", "_copy_from", "_copy_from_and_resize", "lift_fresh_copy"),
    **same_rule(rearrange, *REARRANGEMENTS),
    **same_rule(pad_backward, *(f"{pad}_backward" for pad in PADS)),
    **same_rule(
        spread,
        "slice_backward",
        "select_backward",
        "diagonal_backward",
        "diag_embed",
    ),
    **same_rule(accumulate_windows, "unfold_backward", "col2im", "_pack_padded_sequence_backward"),
    **same_rule(lay_over, "slice_scatter", "select_scatter", "diagonal_scatter", "as_strided_scatter"),
    **same_rule(triangle, "tril", "triu"),
    "_local_scalar_dense": scalar_read,
}
