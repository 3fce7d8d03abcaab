"""Ctrl-C during a capture: no abort inside torch, no swallowed interrupt, handlers as before."""

from __future__ import annotations

import signal
import threading

import pytest

pytest.importorskip("torch", reason="captures run torch")

import torch

import worklode
from worklode.frontend.interrupts import interrupts_after


class InterruptInBackward(torch.autograd.Function):
    """Identity whose gradient is interrupted `times` times."""

    times = 1
    finished = 0

    @staticmethod
    def forward(context: object, x: torch.Tensor) -> torch.Tensor:
        return x * 1

    @staticmethod
    def backward(context: object, gradient: torch.Tensor) -> torch.Tensor:
        for _ in range(InterruptInBackward.times):
            signal.raise_signal(signal.SIGINT)
        InterruptInBackward.finished += 1
        return gradient * 1


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return InterruptInBackward.apply(self.layer(x))  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.parametrize(("times", "finished"), [(1, 1), (2, 0)])
def test_an_interrupt_of_backward_comes_behind_it_and_the_second_at_once(
    times: int, finished: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InterruptInBackward, "times", times)
    monkeypatch.setattr(InterruptInBackward, "finished", 0)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        worklode.capture_module(Net(), (torch.zeros(2, 4),), lambda out: out.sum())
    assert InterruptInBackward.finished == finished
    assert signal.getsignal(signal.SIGINT) is handler


def test_without_an_interrupt_nothing_is_raised() -> None:
    handler = signal.getsignal(signal.SIGINT)
    with interrupts_after():
        assert signal.getsignal(signal.SIGINT) is not handler
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_error_of_the_block_is_kept_and_the_interrupt_comes_first() -> None:
    with pytest.raises(ValueError, match="own"), interrupts_after():
        raise ValueError("own")
    with pytest.raises(KeyboardInterrupt), interrupts_after():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("own")


def test_other_threads_are_left_alone() -> None:
    seen = []

    def work() -> None:
        handler = signal.getsignal(signal.SIGINT)
        with interrupts_after():
            seen.append(signal.getsignal(signal.SIGINT) is handler)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]
