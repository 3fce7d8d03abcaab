"""The command line in this process: options, exit codes, JSON and errors; the engine is real where it is quick."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from worklode import __version__, cli
from worklode.cli import app as app_module
from worklode.errors import CaptureError, Fault, InternalError, SpecError

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKLODE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("WORKLODE_TRACEBACK", raising=False)
    monkeypatch.chdir(tmp_path)


def run(capsys: Captured, *arguments: str) -> tuple[int, str, str]:
    code = cli.run(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make `worklode models` raise."""

    def fail() -> None:
        raise error

    monkeypatch.setattr("worklode.cli.listings.list_models", fail)


def test_help_names_every_command_and_no_other(capsys: Captured) -> None:
    code, out, err = run(capsys, "--help")
    assert (code, err) == (0, "")
    for command in (
        "models",
        "presets",
        "doctor",
        "capture",
        "evaluate",
        "mine",
        "bench",
        "validate",
        "explain-number",
    ):
        assert f" {command} " in out
    assert " resume " not in out


def test_version(capsys: Captured) -> None:
    assert run(capsys, "--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("min",), "did you mean 'mine'"),
        (("mine",), "missing argument 'WORKLOAD...'"),
        (("mine", "bert-base", "--nonsense"), "--nonsense"),
        (("mine", "bert-base", "--batch", "0"), "'--batch'"),
        (("mine", "bert-base", "--batch", "many"), "'--batch'"),
        (("mine", "bert-base", "--top-k", "0"), "'--top-k'"),
        (("evaluate", "bert-base"), "missing option '--on'"),
    ],
)
def test_bad_usage_is_one_error_line_and_exit_2(capsys: Captured, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: worklode")
    assert err.count("\n") == 1
    assert said.lower() in err.lower()
    assert "--help" in err


def test_bad_usage_with_json_is_a_document(capsys: Captured) -> None:
    code, out, err = run(capsys, "evaluate", "bert-base", "--json")
    assert code == 2
    assert err.startswith("error: ")
    error = json.loads(out)["error"]
    assert (error["kind"], error["exit_code"]) == ("bad_input", 2)
    assert error["faults"][0]["where"] == "worklode evaluate"


def test_every_fault_is_printed(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Fault(where="a.yaml", path="rows", value="-1", problem="must be positive", allowed="> 0")
    failing(monkeypatch, SpecError(first, Fault(where="b.yaml", problem="no such file")))
    code, out, err = run(capsys, "models")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "error: a.yaml: rows: must be positive (found -1); allowed: > 0",
        "error: b.yaml: no such file",
    ]
    _, out, _ = run(capsys, "models", "--json")
    assert json.loads(out)["error"]["faults"][0] == {
        "where": "a.yaml",
        "path": "rows",
        "value": "-1",
        "problem": "must be positive",
        "allowed": "> 0",
    }


@pytest.mark.parametrize("error", [InternalError("utilisation is 1.2"), ZeroDivisionError("division by zero")])
def test_a_defect_asks_to_be_filed(capsys: Captured, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    failing(monkeypatch, error)
    code, out, err = run(capsys, "models")
    assert (code, out) == (1, "")
    assert str(error) in err
    assert "Please file it" in err
    assert __version__ in err
    assert "test_cli.py" in err, "the place is named"
    assert "Traceback" not in err
    assert json.loads(run(capsys, "models", "--json")[1])["error"]["kind"] == "defect"


def test_traceback_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ZeroDivisionError())
    monkeypatch.setenv("WORKLODE_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        cli.run(["models"])


def test_interrupt_is_130(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    code, out, err = run(capsys, "models")
    assert (code, out, err) == (130, "", "error: interrupted\n")
    assert json.loads(run(capsys, "models", "--json")[1])["error"]["kind"] == "interrupted"


def test_a_result_json_cannot_say_is_a_defect(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    from worklode.cli.outcome import Outcome

    outcome = Outcome(document={"time_s": float("nan")}, report=list)
    monkeypatch.setattr("worklode.cli.listings.list_models", lambda: outcome)
    code, out, _ = run(capsys, "models", "--json")
    assert code == 1
    assert json.loads(out)["error"]["kind"] == "defect"


def test_models_lists_the_zoo(capsys: Captured) -> None:
    code, out, err = run(capsys, "models", "--json")
    assert (code, err) == (0, "")
    models = json.loads(out)["models"]
    names = [model["name"] for model in models]
    for name in ("bert-large", "gpt3-175b", "mobilenet-v3-large", "sd-unet"):
        assert name in names
    table = run(capsys, "models")[1]
    assert all(name in table for name in names)


def test_presets_have_area_and_power(capsys: Captured) -> None:
    presets = {preset["name"]: preset for preset in json.loads(run(capsys, "presets", "--json")[1])["presets"]}
    assert set(presets) == {"tpuv2", "tpuv3", "tpuv4", "tpuv4i", "nvdla-small", "nvdla-large", "a100-80gb", "h100"}
    for preset in presets.values():
        assert preset["area_mm2"] > 0
        assert preset["tdp_w"] > 0
    # Two cores of one 128x128 array at 700 MHz; doi 10.1145/3360307 gives 46 TFLOP/s.
    assert presets["tpuv2"]["peak_matrix_flops_per_s"] == pytest.approx(46e12, rel=0.01)
    assert "tpuv2" in run(capsys, "presets")[1]


def test_doctor_reports_and_clears_the_cache(capsys: Captured, tmp_path: Path) -> None:
    document = json.loads(run(capsys, "doctor", "--json")[1])
    assert document["worklode"] == __version__
    assert document["cache"] == {"folder": str(tmp_path / "cache"), "graphs": 0, "bytes": 0}
    assert document["cores"] >= 1
    assert 0 <= document["kernels"]["compiled"] <= document["kernels"]["kernels"]
    (tmp_path / "cache" / "graphs").mkdir(parents=True)
    (tmp_path / "cache" / "graphs" / "x.entry.json").write_text("{}")
    assert json.loads(run(capsys, "doctor", "--json")[1])["cache"]["graphs"] == 1
    code, out, err = run(capsys, "doctor", "--clear-cache")
    assert code == 0
    assert "deleted 1 cached graph" in err
    assert "0 graphs" in out


def test_commands_do_not_import_what_they_do_not_need() -> None:
    """Help must not wait for torch, numpy or pandas."""
    import subprocess
    import sys

    program = (
        "import sys; from worklode import cli; cli.run(['--help']); "
        "print(sorted({'torch', 'numpy', 'pandas', 'numba', 'ruamel'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_capture_errors_are_bad_input(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, CaptureError(Fault(where="net.py", path="line 3", problem="needs a value")))
    assert run(capsys, "models")[0] == 2


def option_names(command: str) -> set[str]:
    import typer

    group: Any = typer.main.get_command(app_module.app)
    return {name for parameter in group.commands[command].params for name in parameter.opts}


def test_commands_share_the_options_of_a_step() -> None:
    step = {"--batch", "--seq-len", "--optimizer", "--dtype", "--recompute", "--accumulation-steps", "--no-cache"}
    for command in ("capture", "evaluate", "mine"):
        assert step | {"--json", "--quiet", "--out"} <= option_names(command)
    for command in ("models", "presets", "doctor"):
        assert "--json" in option_names(command)
