"""Work that several threads need and one of them does."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Once(Generic[Result]):
    """Calls a function at the first call of this object, from any thread. Each caller gets its result or error."""

    def __init__(self, function: Callable[[], Result]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._results: list[Result] = []
        self._error: Exception | None = None

    @property
    def has_succeeded(self) -> bool:
        """Whether the function was called, and returned."""
        return bool(self._results)

    def __call__(self) -> Result:
        with self._lock:
            if self._error is not None:
                raise self._error
            if not self._results:
                try:
                    self._results.append(self._function())
                except Exception as error:
                    self._error = error
                    raise
            return self._results[0]
