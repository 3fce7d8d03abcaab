"""Bad input: what the user is told, and that a failed capture leaves nothing behind."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode

from worklode.errors import CaptureError, Fault, SpecError
from worklode.frontend import CaptureOptions, capture, capture_module, environment

from .real_step import MODELS_FILE

HEADER = "import torch\nfrom torch import nn\nimport torch.nn.functional as F\n"
NET = HEADER + textwrap.dedent(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x):
            y = self.linear(x)
            {line}
            return y


    def step(batch=4):
        return Net(), torch.randn(batch, 8)
    """
)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Any:
    """After every failure: no mode, hook or patch is left, and a good workload is captured as ever."""
    register = nn.Module.register_parameter
    yield
    assert _get_current_dispatch_mode() is None
    assert _get_current_function_mode_stack() == []
    assert nn.Module.register_parameter is register
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks
    assert torch.jit._state._enabled.enabled
    assert torch.randn(2).tolist(), "real tensors are real again"


def faults_of(workload: str, **options: Any) -> tuple[Fault, ...]:
    with pytest.raises(CaptureError) as caught:
        capture(workload, CaptureOptions(**options))
    assert caught.value.exit_code == 2
    return caught.value.faults


def fault_of(workload: str, **options: Any) -> Fault:
    (fault,) = faults_of(workload, **options)
    return fault


def write(folder: Path, text: str, function: str = "step") -> str:
    path = folder / "workload.py"
    path.write_text(text)
    return f"{path}:{function}"


# ------------------------------------------------------------------------------------------------ file and function


def test_no_such_file(tmp_path: Path) -> None:
    fault = fault_of(f"{tmp_path}/missing.py:step")
    assert fault.problem == "no such file"
    assert fault.path == f"{tmp_path}/missing.py"
    assert "config.json" in fault.allowed


def test_no_such_function(tmp_path: Path) -> None:
    text = write(tmp_path, HEADER + "def training_step():\n    pass\ndef other():\n    pass\n", "trainin_step")
    fault = fault_of(text)
    assert fault.problem == "no function `trainin_step` in this file"
    assert fault.allowed.startswith("did you mean training_step?")
    assert "other" in fault.allowed


@pytest.mark.parametrize("ending", ["", ":"])
def test_the_function_is_missing_in_the_name(tmp_path: Path, ending: str) -> None:
    write(tmp_path, HEADER + "def step():\n    pass\n")
    fault = fault_of(f"{tmp_path / 'workload.py'}{ending}")
    assert fault.problem == "the name of a function is missing"
    assert fault.allowed == "step", "not the modules it imports"


def test_not_python(tmp_path: Path) -> None:
    fault = fault_of(write(tmp_path, "import torch\ndef step(:\n"))
    assert fault.path == "line 2"
    assert fault.problem.startswith("not valid Python")


def test_a_name_that_is_no_function(tmp_path: Path) -> None:
    fault = fault_of(write(tmp_path, HEADER + "step = 3\n"))
    assert (fault.problem, fault.value) == ("not a function", "3")


def test_the_file_raises(tmp_path: Path) -> None:
    fault = fault_of(write(tmp_path, HEADER + "import no_such_package_at_all\ndef step():\n    pass\n"))
    assert fault.path == "line 4: import no_such_package_at_all"
    assert "the file raised ModuleNotFoundError" in fault.problem


def test_the_function_raises(tmp_path: Path) -> None:
    body = "def step(batch=4):\n    widths = {}\n    return nn.Linear(8, widths['out']), None\n"
    fault = fault_of(write(tmp_path, HEADER + body))
    assert fault.path == "line 6: return nn.Linear(8, widths['out']), None"
    assert "the workload function raised KeyError: 'out'" in fault.problem


def test_the_function_needs_what_nobody_gives(tmp_path: Path) -> None:
    text = write(
        tmp_path, HEADER + "def step(batch, seq_len, depth):\n    return nn.Linear(8, 8), torch.ones(batch, 8)\n"
    )
    faults = faults_of(text)
    assert [fault.path for fault in faults] == ["batch", "seq_len", "depth"]
    assert "--seq-len" in faults[1].allowed
    assert "only `batch` and `seq_len` are passed" in faults[2].allowed


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        ("None", "None"),
        ("nn.Linear(8, 8)", "Linear"),
        ("(nn.Linear(8, 8),)", "a tuple of 1: (Linear)"),
        ("(nn.Linear(8, 8), 1, None, None, 2)", "a tuple of 5: (Linear, int, NoneType, NoneType, int)"),
        ("{'module': nn.Linear(8, 8)}", "dict"),
    ],
)
def test_the_function_returns_something_else(tmp_path: Path, returned: str, found: str) -> None:
    fault = fault_of(write(tmp_path, HEADER + f"def step():\n    return {returned}\n"))
    assert fault.value == found
    assert "did not return" in fault.problem
    assert "(module, inputs, loss, optimizer)" in fault.allowed


def test_all_wrong_parts_are_told_at_once(tmp_path: Path) -> None:
    faults = faults_of(write(tmp_path, HEADER + "def step():\n    return nn.Linear, 3, 'mse', 'adamw2'\n"))
    assert [(f.path, f.value) for f in faults] == [
        ("module", "type"),
        ("inputs", "3"),
        ("loss", "'mse'"),
        ("optimizer", "'adamw2'"),
    ]
    assert faults[3].allowed.startswith("did you mean adamw")


# -------------------------------------------------------------------------------------------------------- the step


def test_forward_raises_in_a_library_at_the_users_line(tmp_path: Path) -> None:
    fault = fault_of(write(tmp_path, NET.format(line="y = y @ torch.ones(5, 5)")))
    assert fault.path == "line 12: y = y @ torch.ones(5, 5)"
    assert fault.problem.startswith("forward raised RuntimeError:")
    assert len(fault.problem) < 600


def test_forward_raises_in_a_helper_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "helper_of_user.py").write_text("def act(x):\n    raise ValueError('negative width')\n")
    text = write(tmp_path, "import helper_of_user\n" + NET.format(line="y = helper_of_user.act(y)"))
    fault = fault_of(text)
    assert fault.path == "line 13: y = helper_of_user.act(y)"
    assert fault.problem == "forward raised ValueError: negative width"


@pytest.mark.parametrize(
    ("line", "construct"),
    [
        ("n = int(y.argmax())", "an integer"),
        ("y = y[: int(y.sum())]", "an integer"),
        ("y = y[: (y > 0).sum().item()]", "an integer"),
        ("for _ in range((y > 0).sum()): y = y + 1", "an integer"),
        ("ids = y.argmax(1).tolist()", "an integer"),
        ("y = y.sum() * torch.unique(y).numel()", "unique"),
        ("y = y.repeat_interleave(y.argmax(1), dim=0)", "repeat_interleave"),
        ("y = y if torch.equal(x, y) else x", "torch.equal"),
        ("y = F.ctc_loss(y[None].log_softmax(-1), y.argmax(1)[:1], (1,) * 4, (1,) * 4)", "ctc_loss"),
        ("y = nn.utils.rnn.pack_padded_sequence(y[None], torch.ones(4).long()).data", "pack_padded_sequence"),
        ("y = y + torch.from_numpy(y.detach().cpu().numpy())", ".numpy()"),
        ("y = y * torch.bincount(y.argmax(1)).numel()", "bincount"),
    ],
)
def test_values_that_do_not_exist(tmp_path: Path, line: str, construct: str) -> None:
    fault = fault_of(write(tmp_path, NET.format(line=line)))
    assert fault.path == f"line 12: {line}"
    assert construct in fault.value
    assert "depends on the values of tensors" in fault.problem


def test_an_operator_without_a_shape_rule(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.library.define("worklode_test::twice", "(Tensor x) -> Tensor")
    fault = fault_of(write(tmp_path, NET.format(line="y = y + torch.ops.worklode_test.twice(y)")))
    assert fault.value == "worklode_test.twice.default"
    assert "register_fake" in fault.allowed
    assert not caplog.records


@pytest.mark.parametrize(
    ("loss", "found"),
    [("lambda y: y", "shape (4, 8)"), ("lambda y: 3.0", "float"), ("lambda y: None", "NoneType")],
)
def test_the_loss_is_no_scalar(tmp_path: Path, loss: str, found: str) -> None:
    text = NET.format(line="pass").replace("torch.randn(batch, 8)", f"torch.randn(batch, 8), {loss}")
    fault = fault_of(write(tmp_path, text))
    assert (fault.path, fault.value, fault.problem) == ("loss", found, "the loss is not a scalar tensor")


def test_the_loss_raises(tmp_path: Path) -> None:
    text = NET.format(line="pass").replace("torch.randn(batch, 8)", "torch.randn(batch, 8), lambda y: y['loss']")
    fault = fault_of(write(tmp_path, text))
    assert fault.path.startswith("line 17: return Net(), torch.randn(batch, 8), lambda y: y['loss']")
    assert fault.problem.startswith("the loss raised")


def test_an_output_without_a_tensor(tmp_path: Path) -> None:
    fault = fault_of(write(tmp_path, NET.format(line="return 'done'")))
    assert (fault.path, fault.value) == ("loss", "str")


def test_nothing_to_train(tmp_path: Path) -> None:
    text = write(
        tmp_path, HEADER + "def step():\n    return nn.Linear(8, 8).requires_grad_(False), torch.randn(4, 8)\n"
    )
    assert fault_of(text).problem == "no parameter needs a gradient"
    text = write(tmp_path, HEADER + "def step():\n    return nn.ReLU(), torch.randn(4, 8)\n")
    assert fault_of(text).problem == "no parameter needs a gradient"


def test_a_loss_cut_off_from_the_parameters(tmp_path: Path) -> None:
    fault = fault_of(write(tmp_path, NET.format(line="y = y.detach()")))
    assert fault.problem == "the loss depends on no parameter that needs a gradient"


def test_backward_raises(tmp_path: Path) -> None:
    function = """
class Cut(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad[:1]
"""
    text = write(tmp_path, NET.format(line="y = Cut.apply(y)") + function)
    fault = fault_of(text)
    assert "backward raised RuntimeError" in fault.problem
    assert "invalid gradient" in fault.problem


@pytest.mark.parametrize(
    ("optimizer", "problem"),
    [
        ("torch.optim.LBFGS", "its step needs a closure"),
        ("lambda ps: torch.optim.SGD(ps, lr=-1)", "the optimizer raised ValueError: Invalid learning rate"),
        ("lambda ps: None", "the optimizer callable returned no optimizer"),
    ],
)
def test_bad_optimizers(tmp_path: Path, optimizer: str, problem: str) -> None:
    text = NET.format(line="pass").replace("torch.randn(batch, 8)", f"torch.randn(batch, 8), None, {optimizer}")
    assert problem in fault_of(write(tmp_path, text)).problem


def test_a_live_module_that_cannot_be_copied() -> None:
    class Stubborn(nn.Linear):
        def __deepcopy__(self, memo: object) -> object:
            raise TypeError("no copies")

    with pytest.raises(CaptureError, match="copying the module raised TypeError: no copies"):
        capture_module(Stubborn(8, 8), torch.randn(4, 8))


# ---------------------------------------------------------------------------------------------- options and names


def test_all_bad_options_are_told_at_once() -> None:
    faults = faults_of(
        f"{MODELS_FILE}:mlp",
        dtype="bf61",
        recompute="some",
        optimizer="adamv",
        batch=0,
        seq_len=-3,
        accumulation_steps=1.5,
    )
    assert [(fault.path, fault.value) for fault in faults] == [
        ("dtype", "'bf61'"),
        ("recompute", "'some'"),
        ("optimizer", "'adamv'"),
        ("batch", "0"),
        ("seq_len", "-3"),
        ("accumulation_steps", "1.5"),
    ]
    assert faults[0].allowed.startswith("did you mean bf16")
    assert "none, full" in faults[1].allowed
    assert "sgd-momentum" in faults[2].allowed


def test_an_unknown_zoo_name() -> None:
    fault = fault_of("bert-lage")
    assert fault.problem == "no workload of this name in the zoo"
    assert "did you mean bert-large" in fault.allowed
    assert "file.py:function" in fault.allowed


def test_a_name_that_is_empty_or_a_folder(tmp_path: Path) -> None:
    empty = fault_of("")
    assert (empty.where, empty.problem) == ("WORKLOAD", "no workload of this name in the zoo")
    assert fault_of(str(tmp_path)).problem == "a folder without a config.json"


def test_what_a_zoo_model_refuses_is_said_once() -> None:
    fault = fault_of("bert-large", seq_len=100_000)
    assert (fault.path, fault.problem, fault.value) == ("seq_len", "is out of range", "100000")


@pytest.mark.parametrize("text", ["models/step", "graph.wlg.json.gz", "somewhere/config.yaml"])
def test_a_path_to_nothing(text: str) -> None:
    assert fault_of(text).problem == "no such file"


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    path = tmp_path / "broken.wlg.json.gz"
    path.write_bytes(b"not a graph")
    with pytest.raises(SpecError) as caught:
        capture(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "path", "problem", "allowed"),
    [
        ("{", "line 1", "not JSON", ""),
        ("[]", "", "not a JSON object", "model_type"),
        ("{}", "model_type", "the configuration has no model_type", ""),
        ('{"model_type": "berd"}', "model_type", "unknown model_type", "did you mean bert"),
        ('{"model_type": "bert", "architectures": ["BertForFun"]}', "architectures", "has no such model", ""),
        ('{"model_type": "bert", "hidden_size": "wide"}', "", "refuses the configuration", ""),
    ],
)
def test_bad_configurations(tmp_path: Path, content: str, path: str, problem: str, allowed: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(content)
    fault = fault_of(str(file))
    assert fault.where == str(file)
    assert fault.path == path or not path
    assert problem in fault.problem
    assert allowed in fault.allowed


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    assert fault_of(f"{tmp_path}/config.json").problem == "no such file"


def test_a_configuration_whose_model_does_not_fit_together(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 30}))
    fault = fault_of(str(file))
    assert "hidden size (30)" in fault.problem


# ---------------------------------------------------------------------------------------------------- environment


@pytest.mark.parametrize(
    ("found", "problem"), [(None, "torch is not installed"), ("2.12.1", "another release of torch")]
)
def test_torch_missing_or_another_release(monkeypatch: pytest.MonkeyPatch, found: str | None, problem: str) -> None:
    monkeypatch.setattr(environment, "package_version", lambda name: found)
    fault = fault_of(f"{MODELS_FILE}:mlp")
    assert problem in fault.problem
    assert "pip install" in fault.allowed
    assert "2.13.0" in fault.allowed


def test_transformers_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    kept = environment.package_version
    monkeypatch.setattr(environment, "package_version", lambda name: None if name == "transformers" else kept(name))
    assert "transformers, which is not installed" in fault_of(str(tmp_path / "config.json")).problem


def test_good_captures_before_and_after_bad_ones_are_the_same(tmp_path: Path) -> None:
    from worklode.graph.file import graph_to_bytes

    good = f"{MODELS_FILE}:language_model"
    before = graph_to_bytes(capture(good, CaptureOptions(dtype="amp")))
    for line in ("raise ValueError", "y = y[: int(y.sum())]", "y = y @ torch.ones(5, 5)"):
        fault_of(write(tmp_path, NET.format(line=line)), dtype="amp")
    assert graph_to_bytes(capture(good, CaptureOptions(dtype="amp"))) == before
    assert [p.name for p in tmp_path.iterdir()] == ["workload.py"]
