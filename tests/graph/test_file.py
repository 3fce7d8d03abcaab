"""The graph file: exact round trip, one file per graph, and a clear message for every kind of bad file."""

from __future__ import annotations

import dataclasses
import gzip
import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.errors import SpecError
from worklode.graph import file as graph_file
from worklode.graph.file import (
    COLUMNS,
    FORMAT_VERSION,
    INFO_KEYS,
    graph_digest,
    graph_from_bytes,
    graph_to_bytes,
    load_graph,
    save_graph,
)
from worklode.graph.loops import LoopKind, Nest, OperatorLoops
from worklode.graph.operator import Operator, OperatorKind
from worklode.graph.training_graph import TrainingGraph, WorkloadInfo
from worklode.graph.work import Collective, Communication, PatchOperand, Work

from .builders import adam_updates, attention_written_out, conv_bn_relu, linear_gelu_training, transformer_training
from .strategies import graphs


def facts(graph: TrainingGraph) -> tuple[object, ...]:
    """What makes two graphs equal (graphs themselves compare by identity)."""
    return graph.info, graph.tensors, graph.operators, graph.blocks, graph.loops


def rich_graph() -> TrainingGraph:
    """A graph that uses every field with a value that is not its default."""
    graph = transformer_training(layers=2).graph()
    first = graph.operators[0]
    product = next(o for o in graph.operators if o.work.products).work.products[0]
    product = dataclasses.replace(product, patch=PatchOperand.C, window=9, masked_fraction=1 / 3)
    work = dataclasses.replace(
        first.work, products=(product, product), chained=True, random_accesses=7, random_access_bytes=64, serial_steps=3
    )
    communication = Communication(collective=Collective.REDUCE_SCATTER, bytes=96, axis="data", devices=16)
    second = dataclasses.replace(
        graph.operators[1], kind=OperatorKind.COLLECTIVE, work=Work(communication=communication)
    )
    operators = (
        dataclasses.replace(first, work=work, members=("a", "b"), gradient_of="weight", module="é\u2028.0"),
        second,
        *graph.operators[2:],
    )
    info = WorkloadInfo(
        name="näme",
        parameters=10,
        trainable_parameters=9,
        samples=4,
        tokens=2**40,
        options=(("batch", "4"), ("dtype", "bfloat16")),
        notes=("a note",),
        versions=(("torch", "2.13.0"),),
    )
    nest = Nest(
        sizes=(4, 3), kinds=(LoopKind.FREE, LoopKind.ROW), operands=(3, 1), results=(1, -1), products=(1, 2, 0, 3),
        linear=(1,),
    )  # fmt: skip
    loops = [OperatorLoops(nest=None, operands=(), results=()) for _ in operators]
    loops[0] = OperatorLoops(nest=nest, operands=(0,), results=(-1,))
    return dataclasses.replace(graph, info=info, operators=operators, loops=tuple(loops))


@pytest.mark.parametrize(
    "build", [linear_gelu_training, conv_bn_relu, attention_written_out, adam_updates, transformer_training]
)
def test_round_trip_of_typical_graphs(build: Callable[[], Any], tmp_path: Path) -> None:
    graph = build().graph()
    path = tmp_path / "graph.wlg.json.gz"
    save_graph(graph, path)
    assert facts(load_graph(path)) == facts(graph)


@settings(max_examples=60, deadline=None)
@given(graph=graphs())
def test_round_trip_of_any_graph(graph: TrainingGraph) -> None:
    data = graph_to_bytes(graph)
    again = graph_from_bytes(data, "memory")
    assert facts(again) == facts(graph)
    assert graph_to_bytes(again) == data


def test_round_trip_of_every_field() -> None:
    graph = rich_graph()
    again = graph_from_bytes(graph_to_bytes(graph), "memory")
    assert facts(again) == facts(graph)
    operator = again.operators[0]
    assert type(operator.work.products[0].masked_fraction) is float
    assert type(operator.work.chained) is bool
    assert type(again.tensors[0].saved) is bool


def test_every_field_of_every_record_is_stored() -> None:
    for record, columns in COLUMNS.items():
        assert list(columns) == [field.name for field in dataclasses.fields(record)], record
    assert set(INFO_KEYS) == {field.name for field in dataclasses.fields(WorkloadInfo)}


def test_equal_graphs_make_equal_files_in_any_process() -> None:
    data = graph_to_bytes(transformer_training().graph())
    assert graph_to_bytes(transformer_training().graph()) == data
    code = (
        "import hashlib; from tests.graph.builders import transformer_training as t;"
        "from worklode.graph.file import graph_to_bytes as b;"
        "print(hashlib.sha256(b(t().graph())).hexdigest())"
    )
    import hashlib

    root = Path(__file__).parents[2]
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == hashlib.sha256(data).hexdigest()


def test_digest_tells_graphs_apart() -> None:
    one, other = transformer_training(layers=1).graph(), transformer_training(layers=2).graph()
    assert graph_digest(one) == graph_digest(graph_from_bytes(graph_to_bytes(one), "memory"))
    assert graph_digest(one) != graph_digest(other)


def test_reading_needs_no_torch() -> None:
    code = "import sys, worklode.graph.file; print(sorted(m for m in sys.modules if m.startswith('torch')))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "graph.wlg.json.gz"
    save_graph(conv_bn_relu().graph(), path)
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(SpecError, match="No space left on device"):
        save_graph(linear_gelu_training().graph(), path)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_a_saved_file_is_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "graph.wlg.json.gz"
    save_graph(conv_bn_relu().graph(), path)
    other = tmp_path / "other"
    other.write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


def test_the_suffix_is_required(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"\.wlg\.json\.gz"):
        save_graph(conv_bn_relu().graph(), tmp_path / "graph.gz")


# Bad files ------------------------------------------------------------------------------------------------------------


def small_graph() -> TrainingGraph:
    """A linear layer's step and a collective."""
    b = linear_gelu_training()
    communication = Communication(collective=Collective.ALL_REDUCE, bytes=64, axis="tensor", devices=8)
    b.op("all_reduce", OperatorKind.COLLECTIVE, (0,), (4,), work=Work(communication=communication))
    return b.graph()


def document() -> dict[str, Any]:
    """The JSON of a small graph, to be spoilt."""
    loaded: dict[str, Any] = json.loads(gzip.decompress(graph_to_bytes(small_graph())))
    return loaded


def packed(value: object) -> bytes:
    return gzip.compress(json.dumps(value).encode(), mtime=0)


def message_of(data: bytes) -> str:
    with pytest.raises(SpecError) as caught:
        graph_from_bytes(data, "some.wlg.json.gz")
    assert all(fault.where == "some.wlg.json.gz" for fault in caught.value.faults)
    return str(caught.value)


def test_an_unspoilt_document_is_read() -> None:
    assert facts(graph_from_bytes(packed(document()), "x")) == facts(small_graph())


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No such file"):
        load_graph(tmp_path / "none.wlg.json.gz")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not a graph file"),
        (b"PK\x03\x04 a zip", "not a graph file"),
        (b"\x1f\x8b\xff\xff rubbish", "damaged"),
        (gzip.compress(b"not json"), "truncated or not JSON"),
        (gzip.compress(b'{"format": "worklode-graph", "version": 1, "version": 1}'), "appears twice"),
        (gzip.compress(b'{"format": "worklode-graph", "version": NaN}'), "NaN"),
        (gzip.compress(b"[" * 100_000), "truncated or not JSON"),
        (gzip.compress(b"9" * 10_000), "truncated or not JSON"),
        (gzip.compress(b"\xff\xfe"), "truncated or not JSON"),
        (packed([]), "not a graph file"),
        (packed({"format": "onnx"}), "not a graph file"),
        (packed({"format": "worklode-graph", "version": "1"}), "version: unknown"),
        (packed({"format": "worklode-graph", "version": 0}), "version: unknown"),
        (packed({"format": "worklode-graph", "version": True}), "version: unknown"),
        (packed({"format": "worklode-graph", "version": FORMAT_VERSION}), "operators: missing key"),
    ],
)
def test_what_is_no_graph_file(data: bytes, problem: str) -> None:
    assert problem in message_of(data)


def test_a_newer_version_says_what_to_do() -> None:
    message = message_of(packed({"format": "worklode-graph", "version": FORMAT_VERSION + 1, "new": []}))
    assert "written by a newer worklode" in message
    assert f"version {FORMAT_VERSION};" in message
    assert "capture the workload again" in message


def test_truncated_gzip_and_truncated_json() -> None:
    data = graph_to_bytes(linear_gelu_training().graph())
    for length in (3, 20, len(data) // 2, len(data) - 1):
        assert "truncated" in message_of(data[:length])
    text = gzip.decompress(data)
    assert "truncated" in message_of(gzip.compress(text[: len(text) // 2]))
    assert "data after the end" in message_of(data + b"more")


def test_a_flipped_bit_is_noticed() -> None:
    data = bytearray(graph_to_bytes(linear_gelu_training().graph()))
    data[len(data) // 2] ^= 0x10
    message_of(bytes(data))


def test_a_bomb_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_file, "TEXT_LIMIT_BYTES", 2**16)
    assert "inflates beyond" in message_of(gzip.compress(b" " * 2**20))


def spoilt(path: str, value: object) -> bytes:
    """The document with the value at `path` replaced."""
    whole = document()
    place: Any = whole
    *parents, last = path.split(".")
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place[key]
    if isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    return packed(whole)


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        ("extra", 1, "extra: unknown key"),
        ("tensors.shape", [], "tensors.shape: unknown key"),
        ("tensors", [], "tensors: is no object"),
        ("tensors.bytes", "many", "tensors.bytes: is no list"),
        ("tensors.bytes.0", 1.5, "tensors.bytes[0]: is no integer"),
        ("tensors.bytes.0", True, "tensors.bytes[0]: is no integer"),
        ("tensors.bytes.0", None, "tensors.bytes[0]: is no integer"),
        ("tensors.bytes.0", -4, "tensors.bytes[0]: outside its range"),
        ("tensors.bytes.0", 2**63, "tensors.bytes[0]: outside its range"),
        ("tensors.saved.0", 2, "tensors.saved[0]: outside its range"),
        ("tensors.dtype.0", 10_000, "tensors.dtype[0]: outside its range"),
        ("tensors.dtype.0", -1, "tensors.dtype[0]: outside its range"),
        ("tensors.role.0", 0, "tensors.role[0]: unknown (found"),
        ("tensors.producer.0", 500, "tensors[0].producer: no such operator"),
        ("tensors.producer.0", -7, "tensors.producer[0]: outside its range"),
        ("tensors.storage", [0], "tensors: columns of different lengths"),
        ("operators.work.0", 999, "operators.work: index beyond the table works"),
        ("operators.reads.values.0", 999, "operators.reads: index beyond the table accesses"),
        ("operators.reads.lengths.0", 50, "operators.reads: lengths and values disagree"),
        ("operators.reads", {"lengths": []}, "operators.reads.values: missing key"),
        ("operators.block.0", 3, "operators[0].block: no such block"),
        (
            "operators.after",
            {"lengths": [1] + [0] * 11, "values": [9]},
            "operators[0].after: not in a topological order",
        ),
        ("accesses.tensor.0", 900, "operators[0].reads[0].tensor: no such tensor"),
        ("accesses.bytes.0", 10**12, "bytes: outside its storage"),
        ("products.m.0", -1, "products.m[0]: outside its range"),
        ("products.element_bytes.0", 0, "products.element_bytes[0]: outside its range"),
        ("products.masked_fraction.0", 1.0, "products.masked_fraction[0]: is no share"),
        ("products.masked_fraction.0", "0", "products.masked_fraction[0]: is no share"),
        ("products.patch.0", 1, "products.patch[0]: unknown"),
        ("works.chained.0", 1, "chained: a chain of fewer than two products"),
        ("works.communication.0", 1, "works.communication: index beyond the table communications"),
        ("works.communication.0", -2, "works.communication[0]: outside its range"),
        ("communications.bytes.0", -1, "communications.bytes[0]: outside its range"),
        ("communications.devices.0", 0, "communications.devices[0]: outside its range"),
        ("communications.axis.0", 0, "communication.axis: unknown"),
        ("communications.collective.0", 0, "communications.collective[0]: unknown"),
        ("works.communication.0", 0, "work: a collective computes nothing itself"),
        ("strings.0", 7, "strings[0]: is no text"),
        ("strings", {}, "strings: is no list"),
        ("info.name", None, "info.name: is no text"),
        ("info.samples", -1, "info.samples[0]: outside its range"),
        ("info.samples", "3", "info.samples[0]: is no integer"),
        ("info.options", [["batch", 4]], "info.options[0]: is no pair of texts"),
        ("info.notes", [4], "info.notes[0]: is no text"),
        ("info.author", "me", "info.author: unknown key"),
        ("info", 3, "info: is no object"),
    ],
)
def test_a_spoilt_value_is_named(path: str, value: object, found: str) -> None:
    message = message_of(spoilt(path, value))
    assert found in message, message


def test_order_that_is_not_topological_is_refused() -> None:
    graph = linear_gelu_training().graph()
    swapped = dataclasses.replace(graph, operators=(*graph.operators[1:2], graph.operators[0], *graph.operators[2:]))
    assert "topological order" in message_of(graph_to_bytes(swapped))


def test_all_faults_of_a_file_at_once() -> None:
    whole = document()
    whole["tensors"]["bytes"][0] = -1
    whole["operators"]["name"][0] = 10**6
    whole["info"]["samples"] = -1
    with pytest.raises(SpecError) as caught:
        graph_from_bytes(packed(whole), "x")
    assert len(caught.value.faults) == 3


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_spoilt_document_is_refused_or_read_but_never_crashes(data: st.DataObject) -> None:
    whole = document()
    section = data.draw(st.sampled_from([k for k in whole if isinstance(whole[k], dict) and whole[k]]))
    column = data.draw(st.sampled_from(list(whole[section])))
    rubbish = data.draw(
        st.one_of(
            st.none(), st.integers(), st.text(max_size=3), st.lists(st.integers(-2, 40), max_size=12), st.just({}),
            st.floats(0, 1),
        )
    )  # fmt: skip
    whole[section][column] = rubbish
    try:
        graph = graph_from_bytes(packed(whole), "x")
    except SpecError as error:
        assert error.faults
    else:
        assert all(isinstance(operator, Operator) for operator in graph.operators)
