"""Ctrl-C during a capture: no abort inside torch, no swallowed interrupt, handlers as before."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("torch", reason="captures run torch")

import torch

import worklode
from worklode.frontend.interrupts import HeldInterrupts


@pytest.fixture(autouse=True)
def _python_handles_interrupts() -> Iterator[None]:
    """Python's own handler, whatever the tests were started under: a shell's background jobs ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupted(torch.autograd.Function):
    """Identity whose forward or gradient is interrupted `times` times, and then finishes."""

    where = ""
    times = 1
    finished = 0

    @staticmethod
    def interrupt(where: str) -> None:
        if Interrupted.where == where:
            for _ in range(Interrupted.times):
                signal.raise_signal(signal.SIGINT)
            Interrupted.finished += 1

    @staticmethod
    def forward(context: object, x: torch.Tensor) -> torch.Tensor:
        result = x * 1
        Interrupted.interrupt("forward")
        return result

    @staticmethod
    def backward(context: object, gradient: torch.Tensor) -> torch.Tensor:
        result = gradient * 1
        Interrupted.interrupt("backward")
        return result


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = Interrupted.apply(self.layer(x))  # type: ignore[no-untyped-call]
        return self.layer(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize(("times", "finished"), [(1, 1), (2, 0)])
def test_an_interrupt_waits_for_the_next_call_and_a_second_one_for_nothing(
    where: str, times: int, finished: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("where", where), ("times", times), ("finished", 0)):
        monkeypatch.setattr(Interrupted, name, value)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        worklode.capture_module(Net(), (torch.zeros(2, 4),), lambda out: out.sum())
    assert Interrupted.finished == finished
    assert signal.getsignal(signal.SIGINT) is handler
    monkeypatch.setattr(Interrupted, "where", "")
    assert len(worklode.capture_module(Net(), (torch.zeros(2, 4),), lambda out: out.sum()).operators) > 5


def test_it_is_raised_where_it_is_asked_for_else_at_the_end() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), HeldInterrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        reached.append("after the signal")
        interrupts.raise_held()
        reached.append("after the question")
    with pytest.raises(KeyboardInterrupt), HeldInterrupts():
        signal.raise_signal(signal.SIGINT)
        reached.append("to the end")
    assert reached == ["after the signal", "to the end"]


def test_without_an_interrupt_nothing_is_raised() -> None:
    handler = signal.getsignal(signal.SIGINT)
    with HeldInterrupts() as interrupts:
        assert signal.getsignal(signal.SIGINT) is not handler
        interrupts.raise_held()
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_error_of_the_block_is_kept_and_the_interrupt_comes_first() -> None:
    with pytest.raises(ValueError, match="own"), HeldInterrupts():
        raise ValueError("own")
    with pytest.raises(KeyboardInterrupt), HeldInterrupts():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("own")


def test_other_threads_are_left_alone() -> None:
    seen = []

    def work() -> None:
        handler = signal.getsignal(signal.SIGINT)
        with HeldInterrupts():
            seen.append(signal.getsignal(signal.SIGINT) is handler)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]
