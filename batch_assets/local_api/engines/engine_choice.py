"""Which engine answers a request: the one that its model names, such as `local-extractive`, or the default."""

from __future__ import annotations

from typing import Any

from batch_assets.local_api.engines.engine import Engine, ExtractiveEngine, InstantEngine
from batch_assets.local_api.engines.remote_engine import RemoteEngine
from batch_assets.local_api.engines.small_model import SmallModel, missing_packages

Forwarder = RemoteEngine | SmallModel
"""An engine that takes whole requests, and checks them itself."""

_PREFIX = "local-"


class Engines:
    """The engines of one server. `close` ends their connections and processes.

    default: the name of an engine, or the URL of an OpenAI-compatible server.
    key, model: see RemoteEngine. Raises ValueError for a default that does not exist or is not installed.
    """

    def __init__(
        self, default: str, *, key: str | None = None, model: str | None = None, timeout_seconds: float = 600.0
    ) -> None:
        self._small_model = SmallModel(timeout_seconds=timeout_seconds)
        named: dict[str, Engine | SmallModel] = {
            "extractive": ExtractiveEngine(),
            "instant": InstantEngine(),
            "smollm2": self._small_model,
        }
        self._by_model = {_PREFIX + name: engine for name, engine in named.items()}
        self._default: Engine | Forwarder
        self._remote: RemoteEngine | None = None
        if "://" in default:
            self._default = self._remote = RemoteEngine(default, key=key, model=model, timeout_seconds=timeout_seconds)
            return
        if default not in named:
            names = ", ".join(named)
            raise ValueError(f"There is no engine {default!r}. The engines are: {names}, or the URL of a server.")
        if model is not None:
            raise ValueError("--engine-model is for an engine that is the URL of a server.")
        if default == "smollm2" and (problem := missing_packages()):
            raise ValueError(problem)
        self._default = named[default]

    def choose(self, body: object) -> Engine | Forwarder:
        model: Any = body.get("model") if isinstance(body, dict) else None
        return self._by_model.get(model, self._default) if isinstance(model, str) else self._default

    def model_ids(self) -> list[str]:
        """The models that name an engine, and those of the other server. Waits for that, for a few seconds at most."""
        ids = [name for name, engine in self._by_model.items() if engine is not self._small_model]
        if missing_packages() is None:
            ids.append(_PREFIX + self._small_model.name)
        return ids + (self._remote.model_ids() if self._remote is not None else [])

    @property
    def accepts_any_model(self) -> bool:
        """Whether the default answers requests for every model, also for OpenAI's."""
        return self._remote is None

    @property
    def is_remote(self) -> bool:
        """Whether the default works in another process, so that requests take no processor time of this one."""
        return isinstance(self._default, Forwarder)

    def abandon(self) -> None:
        """End the requests to other processes whose `stop` is set."""
        self._small_model.abandon()
        if self._remote is not None:
            self._remote.abandon()

    def close(self) -> None:
        self._small_model.close()
        if self._remote is not None:
            self._remote.close()
