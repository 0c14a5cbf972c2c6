"""Fault injection: what the server does wrong on purpose, so that users can test how their pipeline reacts.

`FaultConfig` names the faults and decides which one happens to a line. The same seed, batch and line always give the
same decision, also after a restart. `FaultInjector` holds the faults of a running server, which clients may change. It
counts the faults that happen only a number of times.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from batch_assets.local_api.wire.errors import ApiError, server_error

logger = logging.getLogger(__name__)

_HASH_RANGE = 2.0**64
_MAXIMUM = 10**12  # a larger value of any fault is a mistake


class LineFault(StrEnum):
    """What goes wrong with one line of a batch."""

    NONE = "none"
    EXPIRE = "expire"
    """The line is not executed, so its batch ends as expired."""
    DROP = "drop"
    """The line is in neither result file."""
    FAIL = "fail"
    """The line has the response of `FaultConfig.failure`."""


def _option(default: float, meaning: str) -> Any:
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class FaultConfig:
    """All faults, each off by default. `batch-assets serve --help` shows the same meanings.

    Raises ValueError, with a sentence for the user, for a value of the wrong type or out of range.
    """

    seed: int = _option(0, "Another number chooses other lines for the three shares below.")
    expire_share: float = _option(0.0, "Leave this share of the lines undone; their batch then ends as expired.")
    drop_share: float = _option(0.0, "Leave this share of the lines out of both result files.")
    fail_share: float = _option(0.0, "Answer this share of the lines with --fail-status.")
    fail_status: int = _option(500, "Status of failed lines: 400 to 599, or 0, which stands in the output file.")
    cut_upload: int = _option(0, "Cut the connection after storing, instead of answering, the next N uploads.")
    error_upload: int = _option(0, "Answer the next N uploads with a 500 after storing them.")
    cut_create: int = _option(0, "Cut the connection after making, instead of answering, the next N batches.")
    error_create: int = _option(0, "Answer the next N creations of a batch with a 500 after making it.")
    token_limit: int = _option(0, "Fail a batch with which its model would have more enqueued tokens.  [0: no limit]")
    list_lag: float = _option(0.0, "Seconds for which a new batch is missing from the list of batches.")
    output_late: float = _option(0.0, "Seconds after a batch's end for which its result files are not found.")

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            whole = isinstance(each.default, int)
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise ValueError(f"{each.name} is {value!r}; it must be a {'whole ' if whole else ''}number.")
            if each.name != "seed" and not 0 <= value <= _MAXIMUM:
                raise ValueError(f"{each.name} is {value}; it must be from 0 to {_MAXIMUM:,}.")
        if self.expire_share + self.drop_share + self.fail_share > 1:
            raise ValueError(
                "expire_share, drop_share and fail_share add up to more than 1. A line has at most one fault."
            )
        if self.fail_status != 0 and not 400 <= self.fail_status <= 599:
            raise ValueError(f"fail_status is {self.fail_status}; it must be 0, or from 400 to 599.")

    def line_fault(self, batch_number: int, custom_id: str) -> LineFault:
        """The fault of a line of the server's n-th batch.

        The decision depends on the number and not on the id, so that a run on a new folder can be repeated. A request
        that comes again in another batch gets another decision.
        """
        shares = (
            (LineFault.EXPIRE, self.expire_share),
            (LineFault.DROP, self.drop_share),
            (LineFault.FAIL, self.fail_share),
        )
        if not any(share for _, share in shares):
            return LineFault.NONE
        text = f"{self.seed}/{batch_number}/{custom_id}".encode("utf-8", "surrogatepass")
        drawn = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) / _HASH_RANGE
        for fault, share in shares:
            if drawn < share:
                return fault
            drawn -= share
        return LineFault.NONE

    def failure(self) -> tuple[int, dict[str, Any]]:
        """Status and body of the response to a line with the fault FAIL."""
        status = self.fail_status
        if status == 0:
            return 0, {}  # users report such lines, but not their other contents
        if status == 429:  # [users]
            message = "You've exceeded the 1000 request/min rate limit, please slow down and try again."
            return 429, ApiError(429, message, code="rate_limit_exceeded", kind="requests").body()
        if status >= 500:
            return status, server_error().body()
        return status, ApiError(status, "A fault of the local Batch API refuses this request.").body()

    def __str__(self) -> str:
        """What differs from the default: `fail_share=0.1, fail_status=429`."""
        changed = [each for each in fields(self) if getattr(self, each.name) != each.default]
        return ", ".join(f"{each.name}={getattr(self, each.name)}" for each in changed) or "none"


def read_fault_config(value: object) -> FaultConfig:
    """The faults of a JSON object. A fault that it doesn't name is off. Raises ValueError."""
    if not isinstance(value, Mapping):
        raise ValueError('The faults are a JSON object, such as {"fail_share": 0.1}.')
    known = [each.name for each in fields(FaultConfig)]
    for name in value:
        if name not in known:
            raise ValueError(f"There is no fault {name!r}. The faults are: {', '.join(known)}.")
    return FaultConfig(**value)


class FaultInjector:
    """The faults of a running server; safe to share between threads."""

    def __init__(self, faults: FaultConfig | None = None) -> None:
        self._lock = threading.Lock()
        self._config = faults or FaultConfig()
        self._happened: dict[str, int] = {}
        self.token_limit_lock = threading.Lock()
        """Held while a batch is compared with `token_limit`, so that two batches don't use the same free tokens."""

    @property
    def faults(self) -> FaultConfig:
        return self._config

    def change(self, faults: FaultConfig) -> None:
        """Replace the faults. The counts start again."""
        with self._lock:
            self._config = faults
            self._happened = {}
        logger.info("Faults: %s", faults)

    def claim(self, name: str, object_id: str) -> bool:
        """Whether the fault of that name happens to the object now; True as many times as the fault's value says."""
        with self._lock:
            if self._happened.get(name, 0) >= getattr(self._config, name):
                return False
            self._happened[name] = self._happened.get(name, 0) + 1
        logger.info("%s: fault %s", object_id, name)
        return True

    def as_json(self) -> dict[str, Any]:
        return asdict(self._config)
