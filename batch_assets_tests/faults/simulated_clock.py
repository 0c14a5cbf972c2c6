"""A clock that a test moves: all clocks of the process show its time, those of Dagster and of the servers too.

DuckDB's own `now()` does not, so our statements must not use it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from unittest import mock

import time_machine

SHORTEST_SIMULATED_SECONDS = 0.05  # shorter pauses wait for a thread or a lock of this process


class SimulatedClock:
    """The time goes on by itself as fast as the real one, and jumps where the test moves it."""

    def __init__(self, traveller: time_machine.Traveller) -> None:
        self._traveller = traveller
        self._really_sleep = time.sleep

    def now(self) -> datetime:
        return datetime.now(UTC)

    def advance(self, **duration: float) -> None:
        self._traveller.shift(timedelta(**duration))

    def advance_to(self, moment: datetime) -> None:
        """Nothing happens if it is later already."""
        self._traveller.shift(max(moment - self.now(), timedelta(0)))

    def sleep(self, seconds: float) -> None:
        """In place of `time.sleep`: the time jumps, and the process does not wait."""
        if seconds < SHORTEST_SIMULATED_SECONDS:
            self._really_sleep(seconds)
        else:
            self.advance(seconds=seconds)


@contextmanager
def simulated_clock(start: datetime) -> Iterator[SimulatedClock]:
    with time_machine.travel(start, tick=True) as traveller:
        clock = SimulatedClock(traveller)
        with mock.patch("time.sleep", clock.sleep):
            yield clock
