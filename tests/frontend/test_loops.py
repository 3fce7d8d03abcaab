"""Loop nests against torch itself: an operator run on parts of a loop gives parts, or terms, of its result."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from worklode.frontend.call import Call, TensorMeta
from worklode.frontend.loops import nest_of
from worklode.frontend.operators import describe
from worklode.frontend.to_call import record_call
from worklode.graph.loops import UNTOUCHED, LoopKind, Nest

aten: Any = torch.ops.aten


def values(*shape: int) -> Tensor:
    torch.manual_seed(sum(shape))
    return torch.randn(shape, dtype=torch.float64)


def ids(limit: int, *shape: int) -> Tensor:
    torch.manual_seed(limit)
    return torch.randint(limit, shape)


def transposed(*shape: int) -> Tensor:
    """Not contiguous."""
    return values(*shape[:-2], shape[-1], shape[-2]).transpose(-1, -2)


CALLS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "add, broadcast": (aten.add.Tensor, (values(4, 6, 8), values(6, 1))),
    "add, transposed": (aten.add.Tensor, (values(4, 6, 8), transposed(4, 6, 8))),
    "mul": (aten.mul.Tensor, (values(4, 6), values(6))),
    "div by a number": (aten.div.Scalar, (values(4, 6), 3.0)),
    "gelu": (aten.gelu.default, (values(4, 6),)),
    "where": (aten.where.self, (values(4, 6) > 0, values(4, 6), values(6))),
    "clone": (aten.clone.default, (transposed(4, 6),)),
    "mm": (aten.mm.default, (values(4, 6), transposed(6, 8))),
    "addmm": (aten.addmm.default, (values(8), values(4, 6), values(6, 8))),
    "bmm": (aten.bmm.default, (values(2, 4, 6), transposed(2, 6, 8))),
    "baddbmm": (aten.baddbmm.default, (values(2, 4, 8), values(2, 4, 6), values(2, 6, 8))),
    "sum of all": (aten.sum.default, (values(4, 6),)),
    "sum of one": (aten.sum.dim_IntList, (values(4, 6, 8), [1], False)),
    "sum kept": (aten.sum.dim_IntList, (values(4, 6, 8), [0, -1], True)),
    "amax": (aten.amax.default, (values(4, 6), [1])),
    "softmax": (aten._softmax.default, (values(4, 6), 1, False)),
    "log softmax backward": (aten._log_softmax_backward_data.default, (values(4, 6), values(4, 6), 1, torch.float64)),
    "layer norm": (aten.native_layer_norm.default, (values(4, 2, 6), [6], values(6), values(6), 1e-5)),
    "layer norm backward": (
        aten.native_layer_norm_backward.default,
        (values(4, 6), values(4, 6) + 1, [6], values(4, 1), values(4, 1).abs(), values(6), values(6), [True] * 3),
    ),
    "embedding": (aten.embedding.default, (values(10, 6), ids(10, 4, 2))),
    "embedding backward": (aten.embedding_dense_backward.default, (values(4, 2, 6), ids(10, 4, 2), 10, -1, False)),
    "index select": (aten.index_select.default, (values(10, 6), 0, ids(10, 4))),
    "index select of columns": (aten.index_select.default, (values(6, 10), 1, ids(10, 4))),
    "gather": (aten.gather.default, (values(4, 10), 1, ids(10, 4, 2))),
    "gather by index": (aten.index.Tensor, (values(10, 6), [ids(10, 4, 2)])),
    "gather by a later index": (aten.index.Tensor, (values(6, 10), [None, ids(10, 4)])),
    "index put": (
        aten.index_put.default,
        (torch.zeros(10, 6, dtype=torch.float64), [ids(10, 4)], values(4, 6), True),
    ),
    "scatter add": (
        aten.scatter_add.default,
        (torch.zeros(4, 10, dtype=torch.float64), 1, ids(10, 4, 2), values(4, 2)),
    ),
    "index add": (aten.index_add.default, (torch.zeros(10, 6, dtype=torch.float64), 0, ids(10, 4), values(4, 6))),
    "cat": (aten.cat.default, ([values(4, 6), transposed(4, 6)], 1)),
    "cat of unequal": (aten.cat.default, ([values(4, 6), values(4, 2)], 1)),
    "roll": (aten.roll.default, (values(4, 6), [2], [-1])),
    "flip": (aten.flip.default, (values(4, 6), [0])),
    "pad": (aten.constant_pad_nd.default, (values(4, 6), [1, 1])),
    "cumsum": (aten.cumsum.default, (values(4, 6), 0)),
    "top k": (aten.topk.default, (values(4, 6), 2, -1)),
    "sort": (aten.sort.default, (values(4, 6), 0)),
    "triu": (aten.triu.default, (values(2, 4, 4),)),
    "adam": (
        aten.addcdiv.default,
        (values(4, 6), values(4, 6), values(4, 6).abs() + 1),
    ),
}  # fmt: skip
CASES = list(CALLS)


def nest_and_call(name: str) -> tuple[Nest, Call, tuple[Tensor, ...], tuple[Tensor, ...]]:
    func, arguments = CALLS[name]
    result = func(*arguments)
    call, inputs, outputs = record_call(func, arguments, {}, result)
    (description,) = describe(call)
    nest = nest_of(call, description)
    assert nest is not None, name
    return nest, call, inputs, outputs


def run(name: str, replaced: dict[int, Tensor]) -> tuple[Tensor, ...]:
    """The results with some inputs replaced, by their place."""
    func, arguments = CALLS[name]
    place = iter(range(100))

    def swap(value: Any) -> Any:
        if isinstance(value, Tensor):
            at = next(place)
            return replaced.get(at, value)
        return [swap(item) for item in value] if isinstance(value, list) else value

    result = func(*[swap(value) for value in arguments])
    return tuple(t for t in (result if isinstance(result, tuple) else (result,)) if isinstance(t, Tensor))


def dimension_of(tensor: Tensor, stride: int, size: int) -> int | None:
    """The dimension of a tensor that is a loop of this stride and size."""
    return next(
        (d for d in range(tensor.dim()) if tensor.stride(d) == stride and tensor.shape[d] == size and size > 1), None
    )


@pytest.mark.parametrize("name", CASES)
def test_loops_cover_every_dimension(name: str) -> None:
    """Elements of operands and results are those their loops count, and every dimension is a loop of its own."""
    nest, _, inputs, outputs = nest_and_call(name)
    for place, tensor in enumerate(inputs):
        strides = nest.operand(place)
        found = {(s, nest.sizes[loop]) for loop, s in enumerate(strides) if s > 0 and nest.sizes[loop] > 1}
        if "cat" not in name and "pad" not in name and len(found) == tensor.dim():
            assert found == set(zip(tensor.stride(), tensor.shape, strict=True)), place
    for place, tensor in enumerate(outputs[: len(nest.results) // max(1, len(nest.sizes))]):
        strides = nest.result(place)
        if UNTOUCHED not in strides:
            counted = 1
            for loop, stride in enumerate(strides):
                counted *= nest.sizes[loop] if stride > 0 else 1
            assert counted == tensor.numel(), place


@pytest.mark.parametrize("name", CASES)
def test_parts_of_a_free_loop_give_parts_or_terms(name: str) -> None:
    nest, _, inputs, _ = nest_and_call(name)
    whole = run(name, {})
    tried = 0
    for loop, (size, kind) in enumerate(zip(nest.sizes, nest.kinds, strict=True)):
        if kind is not LoopKind.FREE or size % 2:
            continue
        parts: list[dict[int, Tensor]] = [{}, {}]
        sound = True
        for place, tensor in enumerate(inputs):
            stride = nest.operand(place)[loop]
            if stride == 0:
                continue
            dim = dimension_of(tensor, stride, size)
            sound = sound and dim is not None
            if dim is not None:
                for half in (0, 1):
                    parts[half][place] = tensor.narrow(dim, half * size // 2, size // 2)
        assert sound, f"loop {loop} is no dimension of an operand"
        if name == "cat" and nest.result(0)[loop] == 1:
            continue  # parts of parts side by side: checked below
        tried += 1
        results = [run(name, part) for part in parts]
        for place, tensor in enumerate(whole):
            stride = nest.result(place)[loop]
            pair = [result[place] for result in results]
            if stride == UNTOUCHED:
                made = pair[0]
            elif stride == 0:
                made = pair[0] + pair[1]
                if name in {"addmm", "baddbmm"}:  # every part adds the addend
                    made = made - inputs[0]
            else:
                dim = dimension_of(tensor, stride, size)
                assert dim is not None
                made = torch.cat(pair, dim)
            torch.testing.assert_close(made, tensor, msg=f"{name}, loop {loop}, result {place}")
    assert tried or LoopKind.FREE not in nest.kinds


def test_parts_side_by_side_divide_together() -> None:
    """Half of the columns of both operands of a cat are half of the columns of both parts of its result."""
    nest, _, inputs, _ = nest_and_call("cat")
    (loop,) = [i for i, stride in enumerate(nest.result(0)) if stride == 1]
    (part,) = [i for i, kind in enumerate(nest.kinds) if kind is LoopKind.WHOLE]
    assert nest.sizes[loop] == 6
    assert nest.sizes[part] == 2
    assert nest.result(0)[part] == 6
    halves = [run("cat", {p: t.narrow(1, 3 * h, 3) for p, t in enumerate(inputs)})[0] for h in (0, 1)]
    joined = torch.cat([halves[0][:, :3], halves[1][:, :3], halves[0][:, 3:], halves[1][:, 3:]], 1)
    torch.testing.assert_close(joined, run("cat", {})[0])


@pytest.mark.parametrize("name", CASES)
def test_results_are_linear_where_a_nest_says_so(name: str) -> None:
    nest, _, inputs, _ = nest_and_call(name)
    for mask in nest.linear:
        places = [place for place in range(len(inputs)) if mask >> place & 1]
        first = {place: inputs[place] * 0.25 + 1.0 for place in places}
        second = {place: inputs[place] - first[place] for place in places}
        sums = [a + b for a, b in zip(run(name, first), run(name, second), strict=True)]
        torch.testing.assert_close(sums[0], run(name, {})[0], msg=name)


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith(("embedding", "index select", "gather"))])
def test_parts_of_a_table_give_terms(name: str) -> None:
    """Where an operand is looked up, each device's part alone, zero elsewhere, gives a term of the result."""
    nest, _, inputs, _ = nest_and_call(name)
    for loop, (size, kind) in enumerate(zip(nest.sizes, nest.kinds, strict=True)):
        if kind is not LoopKind.LOOKUP:
            continue
        dim = dimension_of(inputs[0], nest.operand(0)[loop], size)
        assert dim is not None
        kept = torch.arange(size).view(*[size if d == dim else 1 for d in range(inputs[0].dim())]) < size // 2
        terms = [run(name, {0: inputs[0] * keep})[0] for keep in (kept, ~kept)]
        torch.testing.assert_close(terms[0] + terms[1], run(name, {})[0])


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_attention_divides_by_heads_and_queries(groups: int) -> None:
    """The nest of fused attention, whose kernel no CPU has, against the function: heads are free, widths are whole."""
    heads, length, width = 4, 6, 8
    metas = [TensorMeta(shape=s, strides=_contiguous(s), dtype="float64", element_bytes=8) for s in
             ((2, heads, length, width), (2, groups, length, width), (2, groups, length, width))]  # fmt: skip
    outputs = (metas[0], TensorMeta(shape=(2, heads, length), strides=(24, 6, 1), dtype="float32", element_bytes=4))
    call = Call(
        name="aten._scaled_dot_product_fused_attention_overrideable.default",
        args=(*metas, None, 0.0, False, False),
        kwargs=(("scale", None),),
        results=outputs,
        inputs=tuple(metas),
        outputs=outputs,
    )
    (description,) = describe(call)
    nest = nest_of(call, description)
    assert nest is not None
    assert nest.kinds == (LoopKind.FREE,) * 4 + (LoopKind.WHOLE,) * 3
    q, k, v = values(2, heads, length, width), values(2, groups, length, width), values(2, groups, length, width)
    whole = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    if groups % 2 == 0:  # the loop of key heads: each half with the query heads it serves
        assert nest.operand(0)[1] == nest.operand(0)[2] * (heads // groups)
        halves = [
            torch.nn.functional.scaled_dot_product_attention(
                q.chunk(2, 1)[i], k.chunk(2, 1)[i], v.chunk(2, 1)[i], enable_gqa=True
            )
            for i in (0, 1)
        ]
        torch.testing.assert_close(torch.cat(halves, 1), whole)
    if heads // groups % 2 == 0 and groups == 1:  # the loop of query heads that share a key head
        assert nest.operand(1)[2] == 0
        halves = [
            torch.nn.functional.scaled_dot_product_attention(part, k, v, enable_gqa=True) for part in q.chunk(2, 1)
        ]
        torch.testing.assert_close(torch.cat(halves, 1), whole)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def test_what_no_rule_knows_has_no_nest() -> None:
    func, arguments = aten.convolution.default, (
        values(1, 2, 4, 4), values(2, 2, 3, 3), None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1,
    )  # fmt: skip
    call, _, _ = record_call(func, arguments, {}, func(*arguments))
    assert nest_of(call, describe(call)[0]) is None
