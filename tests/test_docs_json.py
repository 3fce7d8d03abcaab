"""docs/json.md against the documents that the commands print: same keys, types and units, in both directions."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="workloads are captured with torch")

from worklode import cli
from worklode.search.parallel import ParallelSetting
from worklode.study.distributed_evaluation import SETTINGS

PAGE = Path(__file__).parents[1] / "docs" / "json.md"

# Two products, and an operator that the operator table does not have: its name must show up in the coverage.
NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, x):
        y = self.second(nn.functional.gelu(self.first(x)))
        return y + torch.linalg.matrix_exp(self.second.weight[:, :64]).sum()

def make(batch=4):
    return Net(), torch.randn(batch, 64)
"""

GPT = "gpt:layers=2,hidden=64,heads=2,vocab=128,context=32"

SPACE = """
tensor_core_rows: [16, 32]
tensor_core_cols: [16, 32]
vector_lanes: [64, 128]
num_tensor_cores: [1, 2, 4]
num_vector_cores: [1, 2]
sram: [2MiB, 4MiB]
hbm_stacks: [1, 2]
"""

# The contract of the design, which may be added to but not renamed: what must stay whatever the page says.
CONTRACT = {
    "capture": "workload coverage graph_file",
    "workload": "name parameters trainable_parameters flops flops_forward matrix_flops matrix_flops_forward operators "
    "saved_bytes samples tokens",
    "coverage": "flops_exact bytes_exact fallback_operators",
    "evaluate": "workload accelerator iteration_time_s samples_per_s samples_per_s_per_w energy_j lower_bound_s "
    "critical_path_s utilization memory_bytes coverage",
    "accelerator": "num_tensor_cores tensor_core_rows tensor_core_cols num_vector_cores vector_lanes sram_bytes "
    "hbm_bytes hbm_bytes_per_s clock_hz node_nm area_mm2 tdp_w",
    "utilization": "tensor_core vector_core hbm",
    "mine": "objective constraints best top_k budget_baseline improvement bound optimality_gap search",
    "search": "space_size evaluated pruned wall_time_s",
    "mine_parallel": "objective constraints best top_k budget_baseline improvement bound optimality_gap search stages "
    "pipeline",
    "parallel_search": "space_size evaluated pruned wall_time_s",
}

UNIT_OF_SUFFIX = {
    "flops_per_s": "FLOP/s",
    "samples_per_s_per_w": "1/s/W",
    "samples_per_s": "1/s",
    "bytes_per_s": "byte/s",
    "bytes": "byte",
    "flops": "FLOP",
    "mm2": "mm2",
    "hz": "Hz",
    "nm": "nm",
    "s": "s",
    "w": "W",
    "j": "J",
}


@dataclass(frozen=True)
class Key:
    """One row of a table of the page."""

    name: str
    type: str
    unit: str
    meaning: str

    @property
    def optional(self) -> bool:
        return self.type.endswith(", optional")


@lru_cache
def page() -> dict[str, dict[str, Key]]:
    """Tables of keys by heading, in which "All keys of X" is resolved."""
    tables: dict[str, dict[str, Key]] = {}
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        heading = {"Other commands": "compare", "Errors": "failure"}.get(title.strip(), title.strip())
        rows = re.findall(r"^\| (\w+) \| (.+?) \| (.*?) ?\| (.*?) ?\|$", text, flags=re.MULTILINE)
        keys = {row[0]: Key(*row) for row in rows if row[0] != "key"}
        inherited = re.match(r"\s*All keys of \[(\w+)\]", text)
        if "| key | type |" in text:
            tables[heading] = {"*": Key("*", inherited[1], "", "")} | keys if inherited else keys
    for keys in tables.values():
        if "*" in keys:
            keys.update(tables[keys.pop("*").type])
    return tables


class Comparison:
    """Walks documents along the page; notes what differs, and which keys were seen."""

    def __init__(self) -> None:
        self.differences: list[str] = []
        self.seen: set[tuple[str, str]] = set()

    def record(self, value: Any, table: str, path: str) -> None:
        if not isinstance(value, dict):
            self.differences.append(f"{path}: is no object but {value!r}")
            return
        keys = page()[table]
        for name in value.keys() - keys.keys():
            self.differences.append(f"{path}.{name}: is printed, not documented (table {table})")
        for name, key in keys.items():
            if name in value:
                self.seen.add((table, name))
                self.value(value[name], key.type.removesuffix(", optional"), f"{path}.{name}")
            elif not key.optional:
                self.differences.append(f"{path}.{name}: is documented, not printed")

    def value(self, value: Any, expected: str, path: str) -> None:
        if expected.endswith(" or null"):
            if value is not None:
                self.value(value, expected.removesuffix(" or null"), path)
        elif " or " in expected:
            self.one_of(value, expected.split(" or "), path)
        elif expected.startswith(("list of ", "map of ")):
            kind, inner = (list, expected[8:]) if expected.startswith("list") else (dict, expected[7:])
            if not isinstance(value, kind):
                self.differences.append(f"{path}: {value!r} is no {expected}")
                return
            for name, item in value.items() if isinstance(value, dict) else enumerate(value):
                self.value(item, inner, f"{path}[{name}]")
        elif link := re.fullmatch(r"\[(\w+)\]\(#(\w+)\)", expected):
            assert link[1] == link[2], f"{path}: {expected} leads elsewhere"
            self.record(value, link[1], path)
        else:
            kinds: dict[str, tuple[type, ...]] = {
                "text": (str,),
                "integer": (int,),
                "number": (int, float),
                "boolean": (bool,),
            }
            if type(value) not in kinds[expected]:
                self.differences.append(f"{path}: {value!r} is no {expected}")

    def one_of(self, value: Any, alternatives: list[str], path: str) -> None:
        """One of several forms: the one that differs least."""
        tries = []
        for expected in alternatives:
            comparison = Comparison()
            comparison.value(value, expected, path)
            tries.append(comparison)
        nearest = min(tries, key=lambda comparison: len(comparison.differences))
        self.differences += nearest.differences
        self.seen |= nearest.seen


@dataclass(frozen=True)
class Printed:
    """What one command printed."""

    table: str
    arguments: str
    code: int
    document: dict[str, Any]


def run(*arguments: str) -> tuple[int, dict[str, Any]]:
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(io.StringIO()):
        code = cli.run((*arguments, "--json"))
    return code, json.loads(out.getvalue())


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Printed]]:
    """Documents of every command, each form at least once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("json"))
        patch.setenv("WORKLODE_CACHE", str(Path("cache").absolute()))
        Path("net.py").write_text(NET)
        Path("space.yaml").write_text(SPACE)
        # The models of the paper take long; a small one in their place.
        patch.setitem(SETTINGS, GPT, ParallelSetting(pipeline=2, tensor=2, global_batch=4))
        small = "--space space.yaml --top-k 2"
        many = "--pipeline 2 --tensor 2 --global-batch 4"
        commands = [
            ("capture", 0, "capture net.py:make"),
            ("capture", 0, "capture net.py:make --fused --out net.wlg.json.gz"),
            ("evaluate", 0, "evaluate net.py:make --on tpuv2"),
            ("evaluate", 0, "evaluate net.py:make --on tpuv2 --out evaluated"),
            ("evaluate", 0, "evaluate net.py:make --on a100-80gb --uncertainty"),
            (
                "evaluate_parallel",
                0,
                f"evaluate {GPT} --seq-len 32 --on a100-80gb --pipeline 2 --tensor 2 --global-batch 2 --out spread",
            ),
            ("mine", 0, f"mine net.py:make --area 500mm2 --memory ignore --out mined {small}"),
            ("mine", 0, f"mine net.py:make net.wlg.json.gz --budget tpuv2 {small}"),
            ("mine", 0, f"mine net.py:make --budget tpuv2 --uncertainty {small}"),
            ("mine", 3, f"mine net.py:make --area 1mm2 --out infeasible {small}"),
            ("mine", 4, f"mine net.py:make --budget tpuv2 --max-time 1us {small}"),
            ("mine_parallel", 0, f"mine {GPT} --seq-len 32 --budget tpuv3 {many} --out many {small}"),
            (
                "mine_parallel",
                0,
                f"mine {GPT} {GPT} --seq-len 32 --budget tpuv3 --objective throughput/tdp {many} {small}",
            ),
            (
                "mine_parallel",
                0,
                f"mine {GPT} --seq-len 32 --budget tpuv3 --devices 4 --global-batch 4 {small}",
            ),
            (
                "mine_parallel",
                3,
                f"mine {GPT} --seq-len 32 --area 1mm2 --network tpuv3 {many} --out infeasible-many {small}",
            ),
            ("mine_parallel", 4, f"mine {GPT} --seq-len 32 --budget tpuv3 --max-time 1us {many} {small}"),
            ("compare", 0, "compare evaluated mined"),
            (
                "bench",
                0,
                "bench net.py:make --budget tpuv2 --space space.yaml --searchers worklode,random --seeds 2 "
                "--evaluations 40 --cpu-time 60s --out benched",
            ),
            (
                "reproduce",
                0,
                "reproduce net.py:make --searchers worklode,spotlight-like-inference --evaluations 2 --out again "
                "--rivals random --rivals-time 0.1x",
            ),
            (
                "reproduce",
                0,
                f"reproduce {GPT} --searchers worklode,random --evaluations 2 --rivals= --out spread-again",
            ),
            (
                "bench",
                3,
                "bench net.py:make --area 1mm2 --space space.yaml --searchers random --seeds 1 --out none",
            ),
            ("failure", 2, "mine net.py:make --area 600"),
            ("failure", 2, "mine net.py:make --batch many"),
        ]
        found = []
        for table, code, arguments in commands:
            status, document = run(*arguments.split())
            assert status == code, document
            found.append(Printed(table, arguments, code, document))
        # What the run directory keeps is the same document without its own name.
        folders = {"mined": "mine", "infeasible": "mine", "many": "mine_parallel", "infeasible-many": "mine_parallel"}
        for folder, table in folders.items():
            kept = {**json.loads(Path(folder, "result.json").read_text()), "run_directory": folder}
            assert run("report", folder)[1] == {key: kept[key] for key in kept if key != "run_directory"}
            found.append(Printed(table, folder, 0, kept))
        yield found


def test_every_printed_key_is_documented_and_every_documented_key_is_printed(printed: list[Printed]) -> None:
    comparison = Comparison()
    for one in printed:
        comparison.record(one.document, one.table, one.arguments)
    assert comparison.differences == []
    documented = {(table, name) for table, keys in page().items() for name in keys}
    assert documented - comparison.seen == set()


def test_a_key_that_is_not_on_the_page_is_noticed(printed: list[Printed]) -> None:
    document = json.loads(json.dumps(next(one.document for one in printed if one.table == "evaluate")))
    document["utilization"]["new"] = 1
    del document["accelerator"]["tdp_w"]
    document["iteration_time_s"] = "fast"
    comparison = Comparison()
    comparison.record(document, "evaluate", "evaluate")
    assert len(comparison.differences) == 3


@pytest.mark.parametrize("table", sorted(CONTRACT))
def test_the_contract_is_kept(table: str) -> None:
    assert set(CONTRACT[table].split()) <= page()[table].keys()
    assert not any(page()[table][name].optional for name in CONTRACT[table].split())


def test_units_on_the_page_are_those_in_the_names() -> None:
    wrong = []
    for table, keys in page().items():
        for key in keys.values():
            unit = next((u for suffix, u in UNIT_OF_SUFFIX.items() if re.search(rf"(^|_){suffix}$", key.name)), None)
            if unit is not None and key.name != "memory_bytes" and key.unit != unit:
                wrong.append((table, key.name, key.unit))
    assert wrong == []


def test_shares_are_shares_and_parts_add_up(printed: list[Printed]) -> None:
    """The claims of the page about figures, on the evaluations that were printed."""
    evaluations = [one.document for one in printed if one.table == "evaluate"]
    evaluations += [design for one in printed if one.table == "mine" for design in one.document["top_k"]]
    for evaluation in evaluations:
        accelerator = evaluation["accelerator"]
        assert sum(accelerator["area_parts_mm2"].values()) == pytest.approx(accelerator["area_mm2"])
        assert sum(accelerator["tdp_parts_w"].values()) == pytest.approx(accelerator["tdp_w"])
        assert sum(evaluation["energy_parts_j"].values()) == pytest.approx(evaluation["energy_j"])
        shares = list(evaluation["bound_by"].values())
        assert sum(shares) == pytest.approx(1)
        assert shares == sorted(shares, reverse=True)
        assert sum(evaluation["phase_time_s"].values()) == pytest.approx(evaluation["iteration_time_s"])
        memory = evaluation["memory_bytes"]
        parts = ("parameters", "gradients", "optimizer_state", "buffers", "inputs", "activations")
        assert memory["total"] <= sum(memory[part] for part in parts)
        assert memory["fits"] == (memory["total"] <= accelerator["hbm_bytes"])
        assert evaluation["critical_path_s"] <= evaluation["iteration_time_s"] * (1 + 1e-9)


def test_exit_statuses_match_their_table(printed: list[Printed]) -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (.+?) \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(map(int, rows)) == {0, 1, 2, 3, 4, 130}
    for one in printed:
        if one.code == 2:
            assert one.document["error"]["kind"] == "bad_input"
            assert one.document["error"]["exit_code"] == 2
        if one.code == 3 and one.table == "bench":
            assert all(reference["figure"] is None for reference in one.document["references"])
        elif one.code == 3:
            assert one.document["best"] is None
        if one.code == 4:
            assert one.document["search"]["out_of_time"] is True
