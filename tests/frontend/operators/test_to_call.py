"""From dispatched operators to calls."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from worklode.frontend.call import TensorMeta
from worklode.frontend.operators import describe
from worklode.frontend.to_call import exploded, is_multi_tensor, record_call, tensor_meta, to_call

from .recording import aten, dispatched


def test_defaults_are_filled_in_and_keywords_in_the_order_of_the_schema() -> None:
    x = torch.zeros(2, 3)
    call = to_call(aten.add.Tensor, (x, x), {}, x + x)
    assert call.name == "aten.add.Tensor"
    assert call.packet == "add"
    assert call.kwargs == (("alpha", 1),)
    pooled = aten.max_pool2d_with_indices.default(torch.zeros(1, 1, 4, 4), [2, 2])
    call = to_call(aten.max_pool2d_with_indices.default, (torch.zeros(1, 1, 4, 4), [2, 2]), {}, pooled)
    assert call.args[1:] == ((2, 2), (), (0, 0), (1, 1), False)
    assert len(call.outputs) == 2


def test_positional_arguments_may_be_passed_by_name() -> None:
    x = torch.zeros(2, 3)
    result = aten.gelu.default(x)
    by_name = to_call(aten.gelu.default, (), {"self": x, "approximate": "tanh"}, result)
    assert by_name == to_call(aten.gelu.default, (x,), {"approximate": "tanh"}, result)


def test_calls_are_hashable_and_free_of_torch() -> None:
    x = torch.zeros(2, 3)
    func = aten._to_copy.default
    call = to_call(func, (x,), {"dtype": torch.bfloat16, "device": torch.device("cpu")}, x.bfloat16())
    assert dict(call.kwargs)["dtype"] == "bfloat16"
    assert dict(call.kwargs)["device"] == "cpu"
    assert hash(call) == hash(to_call(func, (x,), {"dtype": torch.bfloat16, "device": "cpu"}, x.bfloat16()))
    assert call.outputs == (TensorMeta(shape=(2, 3), strides=(3, 1), dtype="bfloat16", element_bytes=2),)


def test_results_keep_the_place_of_what_is_absent() -> None:
    x, w = torch.randn(2, 4), torch.ones(4)
    _, mean, rstd = aten.native_layer_norm.default(x, [4], w, w, 1e-5)
    arguments = (x, x, [4], mean, rstd, w, w, [True, False, True])
    call = to_call(aten.native_layer_norm_backward.default, arguments, {}, aten.native_layer_norm_backward(*arguments))
    assert call.results[1] is None
    assert call.outputs == (call.results[0], call.results[2])


def test_operators_in_place_return_what_they_wrote() -> None:
    x, y = torch.zeros(2, 3), torch.ones(3)
    call, inputs, outputs = record_call(aten.add_.Tensor, (x, y), {}, x.add_(y))
    assert inputs[0] is x
    assert inputs[1] is y
    assert outputs == (x,)
    assert call.outputs == (tensor_meta(x),)


def test_writes_the_schema_keeps_quiet_are_results() -> None:
    x, w = torch.randn(2, 4, 3), torch.ones(4)
    mean, var = torch.zeros(4), torch.ones(4)
    training = (x, w, w, mean, var, True, 0.1, 1e-5)
    func = aten.native_batch_norm.default
    _, _, outputs = record_call(func, training, {}, func(*training))
    assert [t is s for t, s in zip(outputs[3:], (mean, var), strict=True)] == [True, True]
    evaluation = (x, w, w, mean, var, False, 0.1, 1e-5)
    assert len(record_call(func, evaluation, {}, func(*evaluation))[2]) == 3


def test_multi_tensor_operators_are_taken_apart() -> None:
    parameters, gradients = [torch.zeros(2), torch.zeros(3)], [torch.ones(2), torch.ones(3)]
    func = aten._foreach_add_.List
    assert is_multi_tensor(func)
    assert not is_multi_tensor(aten.add_.Tensor)
    parts = list(exploded(func, (parameters, gradients), {"alpha": 2}, None))
    calls = [to_call(func, *part) for part in parts]
    assert [c.inputs[0].shape for c in calls] == [(2,), (3,)]
    assert [len(c.outputs) for c in calls] == [1, 1]
    assert [describe(c)[0].work.simple_ops for c in calls] == [2 * 2, 2 * 3]


def test_exploded_scalars_and_empty_lists() -> None:
    p = [torch.zeros(2), torch.zeros(3)]
    scaled = list(exploded(aten._foreach_mul.ScalarList, (p, [2.0, 3.0]), {}, [p[0] * 2, p[1] * 3]))
    assert [args[1] for args, _, _ in scaled] == [2.0, 3.0]
    assert [result.shape for _, _, result in scaled] == [(2,), (3,)]
    steps = [torch.tensor(1.0)] * 2
    adam = next(exploded(aten._fused_adam_.default, (p, p, p, p, [], steps), {"lr": 0.1}, None))
    assert adam[0][4] is None


def test_a_fused_step_equals_its_single_tensor_form_in_bytes() -> None:
    """Fused and foreach AdamW touch the same parameters, gradients and states; fused moves them once."""

    def bytes_of(**kwargs: bool) -> int:
        parameter = torch.nn.Parameter(torch.zeros(1000))
        parameter.grad = torch.ones(1000)
        optimizer = torch.optim.AdamW([parameter], **kwargs)  # type: ignore[arg-type]
        optimizer.step()
        calls = dispatched(optimizer.step)
        return sum(sum(d.read_bytes) + sum(d.write_bytes) for c in calls for d in describe(c))

    fused, apart = bytes_of(fused=True), bytes_of(foreach=True)
    assert 7 * 4000 <= fused < 7 * 4000 + 200
    assert apart > 2 * fused


def test_fake_tensors_give_the_same_calls() -> None:
    layer = torch.nn.Conv2d(3, 4, 3)
    x = torch.randn(2, 3, 8, 8)
    real = dispatched(lambda: layer(x).sum().backward())
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        copy, fake = torch.nn.Conv2d(3, 4, 3), mode.from_tensor(x)
        found = dispatched(lambda: copy(fake).sum().backward())
    computed = [c for c in real if c.packet in {"convolution", "convolution_backward", "sum"}]
    assert computed == [c for c in found if c.packet in {"convolution", "convolution_backward", "sum"}]
    assert len(computed) == 3


def test_sparse_gradients_are_their_rows() -> None:
    layer = torch.nn.Embedding(100, 8, sparse=True)
    layer(torch.tensor([3, 5, 5])).sum().backward()
    assert layer.weight.grad is not None
    assert tensor_meta(layer.weight.grad).shape == (3, 8)
