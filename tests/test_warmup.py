"""The warm-up compiles every kernel there is, on a graph that is a sound one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from worklode import warmup
from worklode.graph.validate import graph_faults


def test_the_tiny_graph_is_sound() -> None:
    assert not graph_faults(warmup.tiny_graph())


def test_kernels_are_found_by_their_decorator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "kernels.py"
    source.write_text(
        '@compiled\ndef a(x):\n    pass\n\n@compiled(\n    "f8(f8)"\n)\ndef b(x):\n    pass\n\ndef c(x): pass\n'
    )
    monkeypatch.setattr("worklode.__file__", str(tmp_path / "__init__.py"))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    assert warmup.compiled_kernels() == {"kernels": 2, "compiled": 0}
    version = f"py{sys.version_info.major}{sys.version_info.minor}"
    (tmp_path / "__pycache__").mkdir()
    index = tmp_path / "__pycache__" / f"kernels.a-1.{version}.nbi"
    index.write_bytes(b"")
    assert warmup.compiled_kernels() == {"kernels": 2, "compiled": 1}
    os.utime(index, (0, 0))
    assert warmup.compiled_kernels()["compiled"] == 0, "compiled from an older source"


@pytest.mark.slow
def test_warm_up_compiles_every_kernel(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-m", "worklode.warmup"], env=environment, check=True, capture_output=True)
    program = "import json; from worklode.warmup import compiled_kernels; print(json.dumps(compiled_kernels()))"
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["compiled"] == found["kernels"] > 0
