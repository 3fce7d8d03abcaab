"""Names, facts and functions of the zoo, and the messages for shapes it cannot train."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worklode.errors import SpecError
from worklode.frontend import zoo

NAMES = (
    *("mobilenet-v3-large", "resnet18", "inception-v3", "resnext101-32x8d", "vgg16", "gnmt", "bert-base", "bert-large"),
    *("opt-1.3b", "gpt2-xl", "gpt3-175b", "resnet50", "vit-l16", "t5-base", "llama2-7b", "llama3-8b", "llama3-70b"),
    *("mixtral-8x7b", "dlrm", "sd-unet"),
)

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "zoo.md"


def test_names_are_those_of_the_command_line_in_its_order() -> None:
    assert zoo.names() == NAMES


def test_the_names_and_facts_come_without_torch() -> None:
    program = "import sys; from worklode.frontend import zoo; zoo.entry('vgg16'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_says_where_its_figures_come_from(name: str) -> None:
    entry = zoo.entry(name)
    assert entry.name == name
    assert all((entry.task, entry.batch_source, entry.parameters_source, entry.paper, entry.block))
    assert (entry.forward_macs is None) == (entry.forward_macs_source == "")
    assert entry.batch >= 1
    assert entry.parameters > 0


@given(st.text())
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    if name in NAMES:
        return
    with pytest.raises(SpecError) as caught:
        zoo.entry(name)
    (fault,) = caught.value.faults
    assert fault.value == name
    assert all(known in fault.allowed for known in NAMES)


def test_a_misspelt_name_gets_the_likely_one() -> None:
    with pytest.raises(SpecError, match="did you mean bert-large"):
        zoo.function("bert-lagre")


@pytest.mark.parametrize("name", NAMES)
def test_defaults_of_the_function_are_those_of_the_entry(name: str) -> None:
    pytest.importorskip("torch", reason="torch is an extra of the package")
    entry = zoo.entry(name)
    found = {key: parameter.default for key, parameter in inspect.signature(zoo.function(name)).parameters.items()}
    assert found == {"batch": entry.batch} | ({"seq_len": entry.seq_len} if entry.seq_len else {})


@pytest.mark.parametrize("name", NAMES)
def test_the_documentation_has_the_facts_of_the_entry(name: str) -> None:
    """One row of docs/zoo.md's first table per model."""
    entry = zoo.entry(name)
    macs = f"{entry.forward_macs / 1e9:.3f} G" if entry.forward_macs is not None else ""
    cells = (name, entry.task, f"{entry.parameters:,}", macs, entry.batch, entry.seq_len or "", entry.optimizer)
    row = "| " + " | ".join(str(cell) for cell in (*cells, entry.paper)) + " |"
    sources = f"| {name} | {entry.parameters_source} | {entry.batch_source} |"
    lines = DOCUMENTATION.read_text().splitlines()
    assert row in lines
    assert sources in lines


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_is_refused(name: str) -> None:
    pytest.importorskip("torch", reason="torch is an extra of the package")
    with pytest.raises(SpecError, match=f"{name}: batch: is too small"):
        zoo.function(name)(batch=0)


@pytest.mark.parametrize(("name", "longest"), [("bert-base", 512), ("gpt2-xl", 1024), ("opt-1.3b", 2048)])
def test_a_sequence_beyond_the_position_table_is_refused_with_every_other_fault(name: str, longest: int) -> None:
    pytest.importorskip("torch", reason="torch is an extra of the package")
    with pytest.raises(SpecError) as caught:
        zoo.function(name)(batch=0, seq_len=longest + 1)
    batch, seq_len = caught.value.faults
    assert batch.path == "batch"
    assert (seq_len.path, seq_len.value) == ("seq_len", str(longest + 1))
    assert f"1 to {longest}" in seq_len.allowed


def test_inception_needs_two_images_because_of_its_auxiliary_head() -> None:
    pytest.importorskip("torch", reason="torch is an extra of the package")
    with pytest.raises(SpecError, match="2 or more"):
        zoo.function("inception-v3")(batch=1)
