"""The graph file: a captured training graph as plain compressed JSON, the format of docs/graph-file.md.

Reading needs no torch and executes nothing. Equal graphs make equal files, byte for byte, so a file's digest names its
graph. Records are stored by column, equal ones once: GPT-3's iteration is 67 kB.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from worklode.errors import Fault, SpecError
from worklode.graph.collector import garbage_collector_paused
from worklode.graph.columns import (
    FAULTS_SHOWN,
    Column,
    Deltas,
    Enums,
    EnumTuples,
    Flags,
    Ints,
    Json,
    OptionalReferences,
    Pool,
    Reader,
    References,
    ReferenceTuples,
    Shares,
    Texts,
    TextTuples,
    Tuples,
    decode_table,
    encode_table,
)
from worklode.graph.loops import UNTOUCHED, LoopKind, Nest, OperatorLoops
from worklode.graph.operator import Access, Operator, OperatorKind, Phase, Tensor, TensorRole
from worklode.graph.training_graph import Block, TrainingGraph, WorkloadInfo
from worklode.graph.validate import graph_faults
from worklode.graph.work import Collective, Communication, PatchOperand, Product, Work

GRAPH_SUFFIX = ".wlg.json.gz"
"""How the name of a graph file ends; the command line knows a saved graph by it."""

FORMAT_NAME = "worklode-graph"
FORMAT_VERSION = 3

TEXT_LIMIT_BYTES = 128 * 2**20
"""Uncompressed size [bytes] above which a file is refused. Assumption: GPT-3's iteration is about 1 MB, so this is two
orders above any honest graph, and a small file that inflates to gigabytes is stopped before it fills the memory."""

COMPRESSION_LEVEL = 6
"""zlib's own default. Measured on GPT-3's graph, 0.8 MB of text: level 1 makes 83 kB in 3 ms, 6 67 kB in 10 ms, 9 68 kB
in 39 ms."""

GZIP_WINDOW_BITS = 31
"""zlib's code for a 32 KiB window in a gzip envelope; its header holds neither time nor name."""

COLUMNS: dict[type, dict[str, Column]] = {
    Block: {"path": Texts(), "first": Ints(), "count": Ints(low=1)},
    Product: {
        **{name: Ints() for name in ("batch", "m", "n", "k", "a_elements", "b_elements", "c_elements")},
        "element_bytes": Ints(low=1),
        "patch": Enums(PatchOperand),
        "window": Ints(low=1),
        "masked_fraction": Shares(),
    },
    Communication: {
        "collective": Enums(Collective),
        "bytes": Ints(),
        "axis": Texts(),
        "devices": Ints(low=1),
    },
    Work: {
        "products": ReferenceTuples("products"),
        "chained": Flags(),
        "simple_ops": Ints(),
        "special_ops": Ints(),
        "vector_elements": Ints(),
        "reduction_bytes": Ints(),
        "random_accesses": Ints(),
        "random_access_bytes": Ints(),
        "serial_steps": Ints(),
        "communication": OptionalReferences("communications"),
    },
    Tensor: {
        "storage": Deltas(),
        "bytes": Ints(),
        "dtype": Texts(),
        "role": Enums(TensorRole),
        "producer": Deltas(low=-1),
        "saved": Flags(),
        "name": Texts(),
    },
    Access: {"tensor": Deltas(), "bytes": Ints()},
    Operator: {
        "name": Texts(),
        "kind": Enums(OperatorKind),
        "phase": Enums(Phase),
        "module": Texts(),
        "work": References("works"),
        "reads": ReferenceTuples("accesses"),
        "writes": ReferenceTuples("accesses"),
        "after": Tuples(),
        "block": Ints(low=-1),
        "instance": Ints(low=-1),
        "gradient_of": Texts(),
        "members": TextTuples(),
    },
    Nest: {
        "sizes": Tuples(),
        "kinds": EnumTuples(LoopKind),
        "operands": Tuples(),
        "results": Tuples(low=UNTOUCHED),
        "products": Tuples(),
        "linear": Tuples(),
    },
    OperatorLoops: {
        "nest": OptionalReferences("nests"),
        "operands": Tuples(low=-1),
        "results": Tuples(low=-1),
    },
}
"""How every field of every record is stored, by record and field."""

INFO_NUMBERS = ("parameters", "trainable_parameters", "samples", "tokens")
INFO_KEYS = ("name", *INFO_NUMBERS, "options", "notes", "versions")
SECTIONS = (
    "info",
    "strings",
    "blocks",
    "products",
    "communications",
    "works",
    "accesses",
    "tensors",
    "operators",
    "nests",
    "loops",
)


def save_graph(graph: TrainingGraph, path: str | os.PathLike[str]) -> None:
    """Write a graph file: whole or not at all (a temporary file beside it is renamed).

    Raises:
        SpecError: the name does not end in `GRAPH_SUFFIX`, or the file cannot be written.
    """
    target = Path(path)
    if not target.name.endswith(GRAPH_SUFFIX):
        raise SpecError(Fault(where=str(target), problem="not the name of a graph file", allowed=f"*{GRAPH_SUFFIX}"))
    data = graph_to_bytes(graph)
    try:
        _write_atomically(target, data)
    except OSError as error:
        raise SpecError(Fault(where=str(target), problem=f"cannot be written: {error.strerror or error}")) from error


def load_graph(path: str | os.PathLike[str]) -> TrainingGraph:
    """Read a graph file and check every invariant of its graph.

    Raises:
        SpecError: missing, not a graph file, truncated, of a newer format version, or unsound; with every fault found.
    """
    source = Path(path)
    try:
        data = source.read_bytes()
    except OSError as error:
        raise SpecError(Fault(where=str(source), problem=f"cannot be read: {error.strerror or error}")) from error
    return graph_from_bytes(data, str(source))


def graph_to_bytes(graph: TrainingGraph) -> bytes:
    """The contents of a graph file; equal for equal graphs."""
    compressor = zlib.compressobj(COMPRESSION_LEVEL, zlib.DEFLATED, GZIP_WINDOW_BITS)
    return compressor.compress(_graph_text(graph)) + compressor.flush()


def graph_digest(graph: TrainingGraph) -> str:
    """SHA-256 of a graph's text, in hexadecimal: equal for equal graphs, whatever zlib is installed."""
    return hashlib.sha256(_graph_text(graph)).hexdigest()


def graph_from_bytes(data: bytes, where: str) -> TrainingGraph:
    """The graph of a file's contents.

    Args:
        data: contents of the file.
        where: its name, for messages.

    Raises:
        SpecError: as `load_graph`.
    """
    with garbage_collector_paused():
        document = _document(_inflated(data, where), where)
        reader = Reader(where)
        graph = _graph_of(document, reader)
        faults = reader.faults or graph_faults(graph, where)
    if faults:
        raise SpecError(*faults[:FAULTS_SHOWN])
    return graph


def _write_atomically(target: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)  # mkstemp's 0600 is for secrets; this file is like any other
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _graph_text(graph: TrainingGraph) -> bytes:
    return json.dumps(_document_of(graph), separators=(",", ":"), allow_nan=False).encode("ascii")


def _document_of(graph: TrainingGraph) -> dict[str, Json]:
    pool = Pool()
    operators = graph.operators
    works = _distinct(operator.work for operator in operators)
    products = _distinct(chain.from_iterable(work.products for work in works))
    communications = _distinct(work.communication for work in works if work.communication is not None)
    accesses = _distinct(chain.from_iterable((*operator.reads, *operator.writes) for operator in operators))
    nests = _distinct(loops.nest for loops in graph.loops if loops.nest is not None)
    tables: dict[str, Json] = {
        "blocks": encode_table(graph.blocks, COLUMNS[Block], pool),
        "products": encode_table(list(products), COLUMNS[Product], pool),
        "communications": encode_table(list(communications), COLUMNS[Communication], pool),
        "works": _with_references(list(works), Work, {"products": products, "communications": communications}, pool),
        "accesses": encode_table(list(accesses), COLUMNS[Access], pool),
        "tensors": encode_table(graph.tensors, COLUMNS[Tensor], pool),
        "operators": _with_references(operators, Operator, {"works": works, "accesses": accesses}, pool),
        "nests": encode_table(list(nests), COLUMNS[Nest], pool),
        "loops": _with_references(graph.loops, OperatorLoops, {"nests": nests}, pool),
    }
    info = {name: getattr(graph.info, name) for name in INFO_KEYS}
    return {"format": FORMAT_NAME, "version": FORMAT_VERSION, "info": info, "strings": list(pool.index), **tables}


def _distinct(records: Iterable[Any]) -> dict[Any, int]:
    """Index of every distinct record, in order of first use."""
    index: dict[Any, int] = {}
    for record in records:
        index.setdefault(record, len(index))
    return index


def _with_references(
    records: Sequence[object], kind: type, tables: dict[str, dict[Any, int]], pool: Pool
) -> dict[str, Json]:
    """A table some of whose fields are records of other tables."""
    encoded: dict[str, Json] = {}
    for name, column in COLUMNS[kind].items():
        values = [getattr(record, name) for record in records]
        if isinstance(column, OptionalReferences):
            values = [-1 if value is None else tables[column.table][value] for value in values]
        elif isinstance(column, References):
            values = [tables[column.table][value] for value in values]
        elif isinstance(column, ReferenceTuples):
            values = [[tables[column.table][part] for part in value] for value in values]
        encoded[name] = column.encode(values, pool)
    return encoded


def _inflated(data: bytes, where: str) -> bytes:
    if data[:2] != b"\x1f\x8b":
        raise SpecError(
            Fault(
                where=where, problem="not a graph file (no gzip data)", allowed="a file written by `worklode capture`"
            )
        )
    inflater = zlib.decompressobj(GZIP_WINDOW_BITS)
    try:
        text = inflater.decompress(data, TEXT_LIMIT_BYTES)
    except zlib.error as error:
        raise SpecError(Fault(where=where, problem=f"damaged: {error}", allowed="an undamaged copy")) from error
    if inflater.unconsumed_tail:
        allowed = f"at most {TEXT_LIMIT_BYTES // 2**20} MiB of text"
        raise SpecError(Fault(where=where, problem="inflates beyond what a graph can be", allowed=allowed))
    if not inflater.eof:
        raise SpecError(Fault(where=where, problem="truncated: the compressed data ends early", allowed="a whole file"))
    if inflater.unused_data:
        raise SpecError(Fault(where=where, problem="data after the end of the graph", allowed="one graph per file"))
    return text


def _document(text: bytes, where: str) -> dict[str, Json]:
    """The JSON object of a graph file of a version that can be read."""
    try:
        document = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        problem = f"truncated or not JSON: {error}"
        raise SpecError(Fault(where=where, problem=problem, allowed="an undamaged graph file")) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT_NAME:
        raise SpecError(Fault(where=where, path="format", problem="not a graph file", allowed=f'"{FORMAT_NAME}"'))
    version = document.get("version")
    if type(version) is int and version > FORMAT_VERSION:
        problem = "written by a newer worklode"
        allowed = f"version {FORMAT_VERSION}; install that worklode, or capture the workload again with this one"
        raise SpecError(Fault(where=where, path="version", value=str(version), problem=problem, allowed=allowed))
    if type(version) is not int or version != FORMAT_VERSION:
        allowed = f"version {FORMAT_VERSION}"
        raise SpecError(Fault(where=where, path="version", value=repr(version), problem="unknown", allowed=allowed))
    return document


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number of a graph")


def _unique_keys(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} appears twice")
    return found


def _graph_of(document: dict[str, Json], reader: Reader) -> TrainingGraph:
    """The graph of a document, its tables one after another; worthless where the reader noted faults."""
    if not reader.keys(document, "", ("format", "version", *SECTIONS)):
        raise SpecError(*reader.faults)
    reader.strings = [reader.text(text, f"strings[{i}]") for i, text in enumerate(_list(document, "strings", reader))]
    products = [
        Product(batch=b, m=m, n=n, k=k, a_elements=a, b_elements=e, c_elements=c, element_bytes=s, patch=p, window=w,
                masked_fraction=f)
        for b, m, n, k, a, e, c, s, p, w, f in _rows(document, "products", Product, reader)
    ]  # fmt: skip
    communications = [
        Communication(collective=c, bytes=b, axis=a, devices=d)
        for c, b, a, d in _rows(document, "communications", Communication, reader)
    ]
    works = [
        Work(products=p, chained=c, simple_ops=o, special_ops=s, vector_elements=v, reduction_bytes=r,
             random_accesses=a, random_access_bytes=b, serial_steps=t, communication=m)
        for p, c, o, s, v, r, a, b, t, m in _rows(
            document, "works", Work, reader, {"products": products, "communications": communications}
        )
    ]  # fmt: skip
    accesses = [Access(tensor=t, bytes=b) for t, b in _rows(document, "accesses", Access, reader)]
    tensors = tuple(
        Tensor(storage=s, bytes=b, dtype=d, role=r, producer=p, saved=v, name=n)
        for s, b, d, r, p, v, n in _rows(document, "tensors", Tensor, reader)
    )
    operators = tuple(
        Operator(name=n, kind=k, phase=p, module=m, work=w, reads=r, writes=s, after=a, block=b, instance=i,
                 gradient_of=g, members=f)
        for n, k, p, m, w, r, s, a, b, i, g, f in _rows(
            document, "operators", Operator, reader, {"works": works, "accesses": accesses}
        )
    )  # fmt: skip
    blocks = tuple(Block(path=p, first=f, count=c) for p, f, c in _rows(document, "blocks", Block, reader))
    nests = [
        Nest(sizes=s, kinds=k, operands=o, results=r, products=p, linear=c)
        for s, k, o, r, p, c in _rows(document, "nests", Nest, reader)
    ]
    loops = tuple(
        OperatorLoops(nest=n, operands=o, results=r)
        for n, o, r in _rows(document, "loops", OperatorLoops, reader, {"nests": nests})
    )
    return TrainingGraph(
        info=_info(document["info"], reader), tensors=tensors, operators=operators, blocks=blocks, loops=loops
    )


def _rows(
    document: dict[str, Json],
    section: str,
    record: type,
    reader: Reader,
    tables: dict[str, Sequence[object]] | None = None,
) -> Iterable[tuple[Any, ...]]:
    return zip(*decode_table(document[section], COLUMNS[record], reader, section, tables), strict=True)


def _list(document: dict[str, Json], section: str, reader: Reader) -> list[Json]:
    found = document[section]
    if isinstance(found, list):
        return found
    reader.fault(section, "is no list", found, "a list")
    return []


def _info(found: Json, reader: Reader) -> WorkloadInfo:
    if not reader.keys(found, "info", INFO_KEYS):
        return WorkloadInfo(name="", parameters=0, trainable_parameters=0, samples=0, tokens=0)
    numbers = {name: sum(reader.ints([found[name]], f"info.{name}", 0)) for name in INFO_NUMBERS}
    notes = tuple(reader.text(note, f"info.notes[{i}]") for i, note in enumerate(_list(found, "notes", reader)))
    return WorkloadInfo(
        name=reader.text(found["name"], "info.name"),
        options=_pairs(found["options"], reader, "info.options"),
        notes=notes,
        versions=_pairs(found["versions"], reader, "info.versions"),
        **numbers,
    )


def _pairs(found: Json, reader: Reader, path: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(found, list):
        reader.fault(path, "is no list", found, "a list of pairs of texts")
        return ()
    for place, pair in enumerate(found):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            reader.fault(f"{path}[{place}]", "is no pair of texts", pair, "[text, text]")
            return ()
    return tuple((name, value) for name, value in found)
