"""Signals as requests: a job is asked between steps whether it should save its state and end."""

from __future__ import annotations

import signal
from types import FrameType

from mspipeline.errors import Interrupted, Preempted, SuiteError


class StopRequest:
    """Remembers that INT, TERM or USR2 came. A second INT ends at once, with KeyboardInterrupt.

    Calling it gives the error to end with, or None to go on. outcome: what is on disk then, and how to go on from it.
    """

    def __init__(self, outcome: str) -> None:
        self._outcome = outcome
        self._received: signal.Signals | None = None

    def listen(self) -> None:
        """Take over the three signals for the rest of the process."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._received == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = signal.Signals(number)

    def __call__(self) -> SuiteError | None:
        if self._received is None:
            return None
        kind = Interrupted if self._received == signal.SIGINT else Preempted
        return kind(f"stopped by {self._received.name}, {self._outcome}")
