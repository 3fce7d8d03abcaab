"""Constructs of user code that fake tensors do not follow: captured with a note, or refused by name and line.

Integers out of tensors, `.numpy()`, packed sequences, `ctc_loss` and the like are in `test_bad_workloads`.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from worklode.errors import CaptureError, Fault
from worklode.frontend import CaptureOptions, capture
from worklode.graph.operator import Phase
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.validate import graph_faults

STEP = textwrap.dedent(
    """
    import numpy
    import torch
    from torch import nn
    import torch.nn.functional as F
    {before}

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x):
            y = self.linear(x)
            {line}
            return y

    def step():
        module = Net()
        inputs = torch.randn(4, 8)
        {after}
        return module, inputs, None, optimizer
    """
)


def workload(folder: Path, line: str = "pass", before: str = "", after: str = "") -> str:
    text = STEP.format(before=before, line=line, after=f"optimizer = None\n    {after}")
    path = folder / "workload.py"
    path.write_text(text)
    return f"{path}:step"


def graph_of(text: str) -> TrainingGraph:
    graph = capture(text, CaptureOptions(dtype="fp32"))
    assert graph_faults(graph) == []
    return graph


def fault_of(text: str) -> Fault:
    with pytest.raises(CaptureError) as caught:
        capture(text, CaptureOptions(dtype="fp32"))
    (fault,) = caught.value.faults
    return fault


# --------------------------------------------------------------------------------------- captured, with a note


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ("y = y * 2 if y.sum() > 0 else y * y * 3", "truth value of aten.gt taken as False"),
        ("assert torch.isfinite(y).all()", "truth value of aten.all taken as True"),
        ("y = y[x > 0]", "aten.index: as if all elements were selected"),
        ("y = torch.masked_select(y, x > 0)", "aten.masked_select: as if all elements were selected"),
        ("y = y.flatten()[(x > 0).flatten().nonzero().squeeze(1)]", "aten.nonzero: as if all elements were selected"),
        ("y = y[torch.where(x > 0)]", "aten.nonzero: as if all elements were selected"),
        ("y = y.clone(); y[x > 0] = x[x > 0]", "aten.index_put_: as if all elements were selected"),
        ("y = y / y.detach().norm().item()", "number of aten.linalg_vector_norm taken as 1.0"),
        ("str(f'{y.mean():.3f} and %.2f' % y.max())", "number of aten.mean taken as 1.0"),
    ],
)
def test_an_answer_on_the_users_behalf_is_noted(tmp_path: Path, line: str, note: str) -> None:
    graph = graph_of(workload(tmp_path, line))
    assert any(found.startswith(note) for found in graph.info.notes), graph.info.notes


def test_the_untaken_branch_is_not_in_the_graph(tmp_path: Path) -> None:
    """The condition is taken as False: one product of the other branch, none of this one."""
    line = "y = y @ x.T @ y if y.sum() > 0 else y @ x.T"
    assert graph_of(workload(tmp_path, line)).matrix_flops(Phase.FORWARD) == 2 * 4 * 8 * 8 + 2 * 4 * 4 * 8


# ----------------------------------------------------------------------------------------- captured, as it runs


@pytest.mark.parametrize(
    ("line", "before", "after"),
    [
        ("y = helper(y)", "@torch.jit.script\ndef helper(y):\n    return torch.relu(y) * 2", ""),
        ("y = helper(y)", "@torch.compile\ndef helper(y):\n    return torch.relu(y) * 2", ""),
        ("pass", "", "module = torch.compile(module)"),
        ("pass", "", "module = torch.jit.trace(module, inputs)"),
        ("pass", "", "module = nn.DataParallel(module)"),
        ("pass", "", "module = nn.Sequential(nn.LazyLinear(4), module.linear.__class__(4, 2))"),
        ("y = y + torch.from_numpy(numpy.ones(8, dtype=numpy.float32)).to(x.device)", "", ""),
        ("y = y.cuda().to('cuda:0').cpu()", "", ""),
        ("y = y * 1", "", "nn.init.trunc_normal_(module.linear.weight); nn.init.orthogonal_(module.linear.weight)"),
        ("y = F.dropout(y, self.rates[1])", "", "Net.rates = [r.item() for r in torch.linspace(0, 0.1, 3)]"),
        ("import copy; y = y + copy.deepcopy(self.linear)(x)", "", ""),
        ("y.register_hook(lambda gradient: gradient * 2)", "", ""),
        ("y = y + torch.randn(8, generator=torch.Generator().manual_seed(0))", "", ""),
        ("y = torch.utils.checkpoint.checkpoint(self.linear, y, use_reentrant=False)", "", ""),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_what_a_user_may_write(tmp_path: Path, line: str, before: str, after: str) -> None:
    graph = graph_of(workload(tmp_path, line, before, after))
    assert graph.info.notes == ()
    assert graph.fallback_operators() == {}
    assert graph.matrix_flops(Phase.FORWARD) > 0
    assert any(o.phase is Phase.OPTIMIZER for o in graph.operators)


def test_complex_parameters_stay_complex(tmp_path: Path) -> None:
    line = "y = (y.to(torch.cfloat) @ self.turn).abs()"
    after = "module.turn = nn.Parameter(torch.randn(8, 8, dtype=torch.cfloat))"
    graph = graph_of(workload(tmp_path, line, after=after))
    assert graph.info.parameters == 8 * 8 + 8 + 8 * 8
    (turn,) = {t.bytes for t in graph.tensors if t.name == "turn" and t.role == "parameter"}
    assert turn == 8 * 8 * 8


# -------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("line", "construct"),
    [
        ("y = y[: int((x > 0).sum().item())]", "an integer read from a tensor"),
        ("y = torch.cond(x.sum() > 0, lambda a: a * 2, lambda a: a * 3, (y,))", "higher-order operator cond"),
        ("y = nn.attention.flex_attention.flex_attention(*(y.view(1, 1, 4, 8),) * 3)", "flex_attention"),
        (
            "y = torch.nested.nested_tensor_from_jagged(y, torch.tensor([0, 2, 4])).values()",
            "rows of different lengths",
        ),
        ("y = torch.nested.nested_tensor([y[:2], y[2:]])", "nested"),
        ("y = y if torch.allclose(x, y) else x", "allclose"),
    ],
)
def test_what_is_refused_is_named_with_its_line(tmp_path: Path, line: str, construct: str) -> None:
    text = workload(tmp_path, line, "import torch.nn.attention.flex_attention")
    fault = fault_of(text)
    assert fault.path == f"line 15: {line}"
    assert construct in fault.value
    assert fault.allowed


def test_an_operator_of_ones_own_without_shapes(tmp_path: Path) -> None:
    before = textwrap.dedent(
        """
        @torch.library.custom_op("worklode_test::secret", mutates_args=())
        def secret(x: torch.Tensor) -> torch.Tensor:
            return x.clone()
        """
    )
    line = "y = torch.ops.worklode_test.secret(y)"
    fault = fault_of(workload(tmp_path, line, before))
    assert fault.path.endswith(line)
    assert "worklode_test::secret" in fault.problem
    assert "register_fake" in fault.problem


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [
        ("torch.optim.LBFGS", "LBFGS"),
        ("type('Twice', (torch.optim.SGD,), {'step': lambda self, closure: closure()})", "Twice"),
    ],
)
def test_an_optimizer_that_runs_the_step_itself(tmp_path: Path, optimizer: str, name: str) -> None:
    fault = fault_of(workload(tmp_path, after=f"optimizer = {optimizer}"))
    assert (fault.path, fault.value) == ("optimizer", name)
    assert "closure" in fault.problem


@pytest.mark.parametrize(
    ("optimizer", "problem"),
    [
        ("lambda ps: torch.optim.AdamW(ps, fused=True)", "does not support sparse gradients"),
        ("lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9)", "gains entries with every step"),
    ],
)
def test_optimizers_that_cannot_take_sparse_gradients(tmp_path: Path, optimizer: str, problem: str) -> None:
    after = f"module, inputs = nn.Embedding(9, 8, sparse=True), torch.zeros(4).long(); optimizer = {optimizer}"
    assert problem in fault_of(workload(tmp_path, after=after)).problem
