"""What is fused and what is not, rule by rule, on graphs small enough to check by hand."""

from __future__ import annotations

from dataclasses import replace

from worklode.graph.fusion import FusionOptions, FusionPattern, fuse
from worklode.graph.operator import Operator, OperatorKind, Phase, TensorRole
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.work import Work

from .builders import (
    GraphBuilder,
    adam_updates,
    attention_written_out,
    conv_bn_relu,
    linear_gelu_dropout_residual,
    linear_gelu_training,
    rms_norm_written_out,
)


def fused(b: GraphBuilder, options: FusionOptions = FusionOptions()) -> TrainingGraph:  # noqa: B008 - immutable
    return fuse(b.graph(), options).graph


def names(graph: TrainingGraph) -> list[str]:
    return [operator.name for operator in graph.operators]


def sizes_written(graph: TrainingGraph, operator: Operator) -> list[int]:
    return [access.bytes for access in operator.writes]


# What is fused --------------------------------------------------------------------------------------------------------


def test_everything_behind_a_product_is_its_epilogue() -> None:
    tokens, width = 64, 32
    graph = fused(linear_gelu_dropout_residual(tokens, width))
    assert names(graph) == ["mm+add+gelu+native_dropout+add"]
    (operator,) = graph.operators
    size = tokens * width
    assert operator.kind is OperatorKind.MATMUL
    assert operator.members == ("mm", "add", "gelu", "native_dropout", "add")
    # x once (as operand and residual), W, bias in; the result and the dropout mask out
    assert operator.read_bytes == 2 * (size + width * width + width)
    assert operator.write_bytes == 2 * size + size
    before = linear_gelu_dropout_residual(tokens, width).graph()
    inside = 3 * 2 * size  # sum -> gelu -> dropout -> add: written and read again
    assert operator.work.vector_elements == sum(o.work.vector_elements for o in before.operators) - inside
    assert operator.work.vector_elements == size + width + size + size + size  # product, bias, residual; result, mask


def test_kernels_of_a_program_are_all_there_is() -> None:
    tokens, width = 64, 32

    def made(*kernels: set[str]) -> list[str]:
        options = FusionOptions(kernels=tuple(frozenset(kernel) for kernel in kernels))
        return names(fused(linear_gelu_dropout_residual(tokens, width), options))

    assert made({"native_dropout", "add"}) == ["mm", "add", "gelu", "native_dropout+add"]
    assert made({"mm", "add"}, {"gelu", "native_dropout"}) == ["mm+add", "gelu+native_dropout", "add"]
    assert made({"mm", "add", "gelu", "native_dropout"}) == ["mm+add+gelu+native_dropout+add"]
    assert made({"nothing"}) == ["mm", "add", "gelu", "native_dropout", "add"]


def test_training_of_two_linear_layers() -> None:
    graph = fused(linear_gelu_training())
    assert names(graph) == ["mm+add+gelu", "mm", "loss_backward", "mm+gelu_backward+sum", "mm", "mm", "mm"]
    forward, backward = graph.operators[0], graph.operators[3]
    # saved for backward: what the activation read and what it made; still written, not read again
    assert len(forward.writes) == 2
    assert all(graph.tensors[access.tensor].saved for access in forward.writes)
    assert backward.gradient_of == "input"
    assert len(backward.writes) == 2  # the gradient for two products, and the bias gradient
    assert [o.gradient_of for o in graph.operators[4:]] == ["weight", "weight", "input"]


def test_normalisation_takes_its_neighbours_and_no_product() -> None:
    graph = fused(conv_bn_relu())
    assert names(graph) == [
        "convolution",
        "native_batch_norm+relu_",
        "convolution",
        "native_batch_norm+add_+relu_",
    ]
    last = graph.operators[-1]
    assert last.kind is OperatorKind.NORMALIZATION
    # three versions of one storage became one write, and the row statistics
    assert len(last.writes) == 3


def test_a_normalisation_written_out_becomes_one_operator() -> None:
    tokens, width = 64, 32
    graph = fused(rms_norm_written_out(tokens, width))
    assert names(graph) == ["mm+add", "_to_copy+pow+mean+add+rsqrt+mul+_to_copy+mul", "mm+add"]
    norm = graph.operators[1]
    assert norm.read_bytes == 2 * tokens * width + 2 * width
    assert norm.write_bytes == 2 * tokens * width
    assert norm.work.reduction_bytes == 4 * width
    patterns = {p.pattern: p.groups for p in fuse(rms_norm_written_out().graph()).report.patterns}
    assert patterns == {FusionPattern.PRODUCT: 2, FusionPattern.ROWS: 1}


def test_attention_written_out_becomes_one_operator() -> None:
    heads, length, width = 4, 16, 8
    graph = fused(attention_written_out(heads, length, width, training=False))
    assert names(graph) == ["bmm+mul+add+_softmax+native_dropout+bmm"]
    (operator,) = graph.operators
    assert operator.kind is OperatorKind.ATTENTION
    assert operator.work.chained
    assert len(operator.work.products) == 2
    scores = heads * length * length
    assert operator.write_bytes == 2 * heads * length * width + scores  # the context, and the mask nobody reads


def test_attention_and_its_backward() -> None:
    graph = fused(attention_written_out())
    assert names(graph) == [
        "bmm+mul+add+_softmax+native_dropout+bmm",
        "loss_backward",
        "bmm",
        "bmm+native_dropout_backward+_softmax_backward_data+mul+bmm*2",
    ]
    forward, backward = graph.operators[0], graph.operators[3]
    assert backward.work.chained
    assert len(backward.work.products) == 3
    assert len(backward.writes) == 2  # the gradients of queries and keys; those of the scores never leave
    assert len(forward.writes) == 4  # probabilities before and after dropout and the mask are saved


def test_scores_narrower_than_their_operands_are_not_chained() -> None:
    graph = fused(attention_written_out(length=4, head_width=8, training=False))
    assert names(graph) == ["bmm+mul+add", "_softmax+native_dropout", "bmm"]


def test_linear_norm_linear_is_not_chained() -> None:
    b = GraphBuilder()
    x, w = b.given(64 * 32), b.parameter(32 * 32)
    y = b.matmul(x, w, 64, 32, 32)
    b.matmul(b.layer_norm(y, 32), w, 64, 32, 32)
    assert names(fused(b)) == ["mm", "native_layer_norm", "mm"]


def test_updates_of_one_block_instance_become_one() -> None:
    graph = fused(adam_updates(sizes=(256, 32, 256, 32), repeats=2))
    updates = [operator for operator in graph.operators if operator.phase is Phase.OPTIMIZER]
    assert [operator.instance for operator in updates] == [0, 1]
    assert all(len(operator.members) == 4 * 6 for operator in updates)
    for operator in updates:
        # parameter and two states of each of four parameters, last versions only
        assert len(operator.writes) == 3 * 4
        assert all(len(graph.tensors[access.tensor].name) for access in operator.writes)
    assert updates[0].item == updates[1].item


def test_one_parameters_update_is_fused_where_multi_tensor_is_off() -> None:
    graph = fused(adam_updates(), FusionOptions(multi_tensor_updates=False))
    updates = [operator for operator in graph.operators if operator.phase is Phase.OPTIMIZER]
    assert len(updates) == 4
    assert all(len(operator.members) == 6 for operator in updates)


def test_updates_outside_blocks_share_by_bytes() -> None:
    b = GraphBuilder(phase=Phase.OPTIMIZER)
    gradient = b.given(64)
    for number in range(64):
        b.in_place(b.parameter(64, f"p{number}"), gradient)
    assert len(fused(b, FusionOptions(update_share=1 / 4)).operators) == 4
    assert len(fused(b, FusionOptions(update_share=1 / 16)).operators) == 16


def test_counters_nobody_reads_are_counted_together() -> None:
    b = GraphBuilder()
    b.blocks = []
    for _ in range(5):
        x = b.given(64)
        b.collective(x)
        b.in_place(b.given(1, TensorRole.BUFFER, f"steps{b.storages}", "int64"))
    assert names(fused(b, FusionOptions(update_share=1.0))).count("add_*5") == 1


def test_a_prologue_is_computed_on_the_way_into_a_product() -> None:
    b = GraphBuilder()
    x, scale, w = b.given(64 * 32), b.given(32), b.parameter(32 * 32)
    b.collective(b.given(8))
    y = b.elementwise(b.elementwise(x, name="relu"), name="neg")
    b.matmul(y, w, 64, 32, 32)
    assert names(fused(b)) == ["all_reduce", "relu+neg+mm"]
    y = b.elementwise(x, scale, name="mul")  # reads more than the operand has: not worth it
    b.matmul(y, w, 64, 32, 32)
    assert names(fused(b))[-2:] == ["mul", "mm"]


def test_upsampling_and_gated_layers_stay_behind_their_product() -> None:
    b = GraphBuilder(phase=Phase.BACKWARD)
    x, w, gate = b.given(64 * 32), b.parameter(32 * 32), b.given(64 * 32)
    y = b.matmul(x, w, 64, 32, 32)
    one, other = b.elementwise(y, gate, name="mul"), b.elementwise(y, name="gelu_backward")
    both = b.op("cat", OperatorKind.MOVEMENT, (one, other), (2 * 64 * 32,), work=Work(simple_ops=1))[0]
    b.reduction(both, 64)
    assert names(fused(b)) == ["mm+mul+gelu_backward+cat+sum"]


# What is not ----------------------------------------------------------------------------------------------------------


def test_a_path_through_another_operator_keeps_groups_apart() -> None:
    b = GraphBuilder()
    first = b.elementwise(b.given(64), name="one")
    b.elementwise(first, b.collective(first), name="two")
    assert names(fused(b)) == ["one", "all_reduce", "two"]


def test_a_path_that_can_join_does() -> None:
    b = GraphBuilder()
    first = b.elementwise(b.given(64), name="one")
    second = b.elementwise(first, name="two")
    b.elementwise(first, second, name="three")
    assert names(fused(b)) == ["one+two+three"]


def test_phases_stay_apart() -> None:
    b = GraphBuilder()
    x = b.elementwise(b.given(64), name="forward")
    for phase in (Phase.RECOMPUTE, Phase.BACKWARD, Phase.OPTIMIZER):
        b.phase = phase
        x = b.elementwise(x, name=phase.value)
    assert names(fused(b)) == ["forward", "recompute", "backward", "optimizer"]


def test_microbatches_stay_apart() -> None:
    b = GraphBuilder()
    total = b.given(64)
    for _ in range(2):
        b.phase = Phase.FORWARD
        x = b.elementwise(b.given(64), name="forward")
        b.phase = Phase.BACKWARD
        total = b.elementwise(b.elementwise(x, name="backward"), total, name="accumulate")
    assert names(fused(b)) == ["forward", "backward+accumulate"] * 2


def test_accumulation_joins_the_product_of_its_gradient() -> None:
    b = GraphBuilder(phase=Phase.BACKWARD)
    x, old = b.given(64), b.given(64, TensorRole.GRADIENT, "w")
    gradient = b.matmul(x, x, 8, 8, 8, gradient_of="weight")
    b.phase = Phase.ACCUMULATE
    b.in_place(old, gradient)
    graph = fused(b)
    assert names(graph) == ["mm+add_"]
    assert graph.operators[0].phase is Phase.BACKWARD


def test_a_product_does_not_read_what_its_epilogue_overwrites() -> None:
    b = GraphBuilder()
    x, w = b.given(8 * 8), b.parameter(8 * 8)
    y = b.matmul(x, w, 8, 8, 8)
    b.in_place(x, y, name="add_")
    assert names(fused(b)) == ["mm", "add_"]


def test_an_elementwise_operator_may_overwrite_what_another_has_read() -> None:
    b = GraphBuilder()
    x = b.given(64)
    y = b.elementwise(x, name="gelu")
    b.in_place(x, y, name="add_")
    assert names(fused(b)) == ["gelu+add_"]


def test_a_part_read_may_not_be_overwritten_as_a_whole() -> None:
    b = GraphBuilder()
    x = b.given(64)
    (half,) = b.op("slice", OperatorKind.MOVEMENT, ((x, 32),), (32,), work=Work(simple_ops=32))
    y = b.elementwise(half, name="gelu")
    whole = b.op("cat", OperatorKind.MOVEMENT, (y, half), (64,), work=Work(simple_ops=64))[0]
    b.in_place(x, whole, name="add_")
    found = names(fused(b))
    assert not any("slice" in name and "add_" in name for name in found)
    assert found == ["slice", "gelu+cat+add_"]


def test_half_a_write_keeps_the_other_half() -> None:
    """Two writes into one storage: the second does not make the first unnecessary, and readers need both."""
    b = GraphBuilder()
    x = b.elementwise(b.given(64), name="whole")
    b.op("copy_", OperatorKind.MOVEMENT, ((b.given(32), 32),), work=Work(simple_ops=32), over=(x,), after=(0,))
    b.narrow_last_write(32)
    b.elementwise(len(b.tensors) - 1, name="reader")
    graph = fused(b)
    assert names(graph) == ["whole", "copy_", "reader"]
    assert graph.hbm_bytes() == b.graph().hbm_bytes()


def test_a_column_is_not_kept_for_all_rows() -> None:
    b = GraphBuilder()
    column = b.elementwise(b.given(32), name="small")
    b.elementwise(b.given(64 * 32), column, name="large")
    assert names(fused(b)) == ["small", "large"]


def test_a_row_statistic_does_not_go_behind_a_product() -> None:
    b = GraphBuilder()
    y = b.matmul(b.given(64 * 32), b.parameter(32 * 32), 64, 32, 32)
    statistic = b.reduction(y, 64)
    b.elementwise(y, statistic, name="sub")
    assert names(fused(b)) == ["mm+sum", "sub"]


def test_rows_and_columns_do_not_mix() -> None:
    b = GraphBuilder()
    x = b.given(64 * 32)
    b.collective(x)
    y = b.elementwise(x, b.reduction(x, 64, name="rows"), name="one")
    b.elementwise(y, b.reduction(y, 32, name="columns"), name="two")
    found = names(fused(b))
    assert found == ["all_reduce", "rows", "one+columns+two"]  # or rows+one, columns, two; never all of them


def test_a_row_must_fit() -> None:
    graph = fused(rms_norm_written_out(width=32), FusionOptions(max_row_bytes=64))
    assert not any(operator.work.reduction_bytes for operator in graph.operators)


def test_an_early_product_does_not_wait_for_a_late_operand() -> None:
    b = GraphBuilder(phase=Phase.BACKWARD)
    x = b.given(64)
    early = b.matmul(x, x, 8, 8, 8, name="early")
    late = x
    for _ in range(3):
        late = b.matmul(late, x, 8, 8, 8, name="late")
    b.elementwise(early, late, name="add")
    assert names(fused(b)) == ["early", "late", "late", "late+add"]


def test_a_product_does_not_wait_for_its_sibling_unless_told() -> None:
    b = GraphBuilder()
    x = b.given(64)
    gate = b.elementwise(b.matmul(x, x, 8, 8, 8, name="gate"), name="silu")
    b.elementwise(gate, b.matmul(x, x, 8, 8, 8, name="up"), name="mul")
    assert names(fused(b)) == ["gate+silu", "up", "mul"]
    assert names(fused(b, FusionOptions(wait_for_siblings=True))) in (["up", "gate+silu+mul"], ["gate+silu", "up+mul"])


def test_sorts_scatters_and_collectives_stay_alone() -> None:
    for kind in (
        OperatorKind.SORT,
        OperatorKind.SCATTER,
        OperatorKind.SCAN,
        OperatorKind.COLLECTIVE,
        OperatorKind.FALLBACK,
    ):
        b = GraphBuilder()
        x = b.elementwise(b.given(64), name="before")
        (x,) = b.op("it", kind, (x,), (64,))
        b.elementwise(x, name="after")
        assert names(fused(b)) == ["before", "it", "after"]


def test_a_gather_hands_on_but_takes_nothing() -> None:
    b = GraphBuilder()
    rows = b.elementwise(b.given(64), name="before")
    work = Work(random_accesses=8, random_access_bytes=16)
    (x,) = b.op("embedding", OperatorKind.GATHER, (rows,), (64,), work=work)
    b.elementwise(x, name="after")
    graph = fused(b)
    assert names(graph) == ["before", "embedding+after"]
    assert graph.operators[1].work.random_accesses == 8


def test_a_second_product_is_never_an_epilogue() -> None:
    b = GraphBuilder()
    x, w = b.given(64 * 32), b.parameter(32 * 32)
    y = b.elementwise(b.matmul(x, w, 64, 32, 32), name="relu")
    b.elementwise(b.matmul(y, w, 64, 32, 32), y, name="add")
    assert names(fused(b)) == ["mm+relu", "mm+add"]


def test_an_update_somebody_waits_for_is_not_grouped() -> None:
    b = GraphBuilder(phase=Phase.OPTIMIZER)
    gradient = b.given(64)
    read_later = b.in_place(b.parameter(64, "p0"), gradient)
    b.collective(read_later)
    b.in_place(b.parameter(64, "p1"), gradient)
    b.in_place(b.parameter(64, "p2"), gradient)
    assert names(fused(b, FusionOptions(update_share=1.0))) == ["add_", "all_reduce", "add_*2"]


def test_saved_tensors_stay_written() -> None:
    b = GraphBuilder()
    x = b.elementwise(b.given(64), name="one")
    b.elementwise(x, name="two")
    graph = b.graph()
    tensors = tuple(replace(t, saved=i == x) for i, t in enumerate(graph.tensors))
    kept = fuse(replace(graph, tensors=tensors)).graph
    assert [len(operator.writes) for operator in kept.operators] == [2]
    assert [len(operator.writes) for operator in fuse(graph).graph.operators] == [1]
