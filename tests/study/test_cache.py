"""The graph cache: used when nothing changed, and only then; damage is mended and said."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from worklode.graph.file import graph_digest
from worklode.graph.training_graph import TrainingGraph
from worklode.study import cache
from worklode.study.cache import cache_summary, cached_graph, clear_cache, graph_key, workload_file
from worklode.warmup import tiny_graph


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORKLODE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "graphs"


class Capture:
    """Stands for a capture; counts how often it was needed."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> TrainingGraph:
        self.count += 1
        return tiny_graph()


def fetch(capture: Capture, workload: str = "bert", notes: list[str] | None = None, **options: object) -> TrainingGraph:
    return cached_graph(workload, options, capture, note=(notes if notes is not None else []).append)


def test_second_time_comes_from_the_cache() -> None:
    capture = Capture()
    first = fetch(capture, batch=8)
    second = fetch(capture, batch=8)
    assert capture.count == 1
    assert graph_digest(first) == graph_digest(second)


def test_refresh_captures_again_and_replaces() -> None:
    capture = Capture()
    fetch(capture)
    cached_graph("bert", {}, capture, refresh=True)
    assert capture.count == 2
    assert cache_summary().graphs == 1


def test_options_workload_and_file_content_distinguish_entries() -> None:
    Path("net.py").write_text("a")
    keys = {
        graph_key("bert", {}),
        graph_key("gpt", {}),
        graph_key("bert", {"batch": 1}),
        graph_key("bert", {"batch": 2}),
        graph_key("bert", {"seq_len": 1}),
        graph_key("net.py:f", {}),
        graph_key("net.py:g", {}),
    }
    assert len(keys) == 7
    assert graph_key("bert", {"batch": None}) == graph_key("bert", {})
    before = graph_key("net.py:f", {})
    Path("net.py").write_text("b")
    assert graph_key("net.py:f", {}) != before


@pytest.mark.parametrize("what", ["torch", "transformers", "worklode", "source"])
def test_versions_and_source_distinguish_entries(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = graph_key("bert", {})
    if what == "worklode":
        monkeypatch.setattr("worklode.__version__", "9.9")
    elif what == "source":
        monkeypatch.setattr(cache, "_source_digest", lambda: "other")
    else:
        version = cache._version
        monkeypatch.setattr(cache, "_version", lambda package: "9.9" if package == what else version(package))
    assert graph_key("bert", {}) != before


def test_a_changed_module_of_the_user_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("net.py").write_text("import layers")
    layers = Path("layers.py").resolve()
    layers.write_text("width = 1")
    module = ModuleType("layers")
    module.__file__ = str(layers)
    monkeypatch.setitem(sys.modules, "layers", module)
    capture = Capture()
    fetch(capture, "net.py:make")
    fetch(capture, "net.py:make")
    assert capture.count == 1
    layers.write_text("width = 2")
    fetch(capture, "net.py:make")
    assert capture.count == 2


def overwrite(path: Path) -> None:
    path.write_bytes(b"\x00" * 100)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize("suffix", ["*.gz", "*.entry.json"])
@pytest.mark.parametrize("damage", [overwrite, cut, Path.unlink])
def test_damaged_entries_are_made_again(folder: Path, damage: Callable[[Path], None], suffix: str) -> None:
    capture = Capture()
    notes: list[str] = []
    fetch(capture, notes=notes)
    (victim,) = folder.glob(suffix)
    damage(victim)
    assert graph_digest(fetch(capture, notes=notes)) == graph_digest(tiny_graph())
    assert capture.count == 2
    if victim.suffix == ".gz" or damage is not Path.unlink:
        assert len(notes) == 1
        assert "capturing again" in notes[0]
    fetch(capture, notes=notes)
    assert capture.count == 2, "the entry was not mended"


def test_an_entry_for_another_graph_is_refused(folder: Path) -> None:
    """The digest in the entry guards the file even where that is a sound graph."""
    fetch(Capture())
    (graph_path,) = folder.glob("*.gz")
    from worklode.graph.file import save_graph

    other = tiny_graph()
    save_graph(replace(other, info=replace(other.info, name="other")), graph_path)
    notes: list[str] = []
    capture = Capture()
    assert fetch(capture, notes=notes).info.name == "warm-up"
    assert capture.count == 1
    assert notes


def test_a_cache_that_cannot_be_written_costs_a_note_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blocked").write_text("a file where a folder should be")
    monkeypatch.setenv("WORKLODE_CACHE", str(tmp_path / "blocked"))
    notes: list[str] = []
    assert fetch(Capture(), notes=notes).operators
    assert len(notes) == 1
    assert "could not be cached" in notes[0]


def test_summary_and_clear(folder: Path) -> None:
    assert cache_summary().graphs == 0
    fetch(Capture(), batch=1)
    fetch(Capture(), batch=2)
    (folder.parent / "other.txt").write_text("not ours")
    summary = cache_summary()
    assert summary.graphs == 2
    assert summary.bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert clear_cache() == summary
    assert cache_summary().graphs == 0
    assert (folder.parent / "other.txt").exists()


def test_failed_captures_leave_nothing(folder: Path) -> None:
    def fail() -> TrainingGraph:
        raise ValueError("capture")

    with pytest.raises(ValueError, match="capture"):
        cached_graph("bert", {}, fail)
    assert not folder.exists() or not list(folder.iterdir())


def test_workload_files() -> None:
    Path("net.py").write_text("")
    Path("model").mkdir()
    Path("model/config.json").write_text("{}")
    assert workload_file("net.py:make") == Path("net.py")
    assert workload_file("net.py") == Path("net.py")
    assert workload_file("model") == Path("model/config.json")
    assert workload_file("bert-large") is None
    assert workload_file("missing.py:make") is None
