"""What a local Batch API can be told: its options, how long it waits, its limits, and the layout of its folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from batch_assets.local_api.faults import FaultInjector
from batch_assets.local_api.storage.private import make_private_folder

BUILT_IN_ENGINE = "extractive"
COMPLETION_WINDOW_SECONDS = 24 * 3600.0
ENGINE_TIMEOUT_SECONDS = 600.0
# Everything that is ever in a server's folder; `server.log` is written by `demo` and `dev`.
FOLDER_HOLDS = (
    *("batches", "files", "uploads", "local_api.sqlite3*"),
    *("key*", "webhook_secret*", "server.json*", "server.lock", "server.log"),
)


@dataclass(frozen=True)
class Timing:
    """How long the server waits, in seconds. Users never change this; tests shorten it."""

    # Connections: from the connection, or from the last response, to the end of a request's head.
    request_head_seconds: float = 10.0
    # In which a request's body advances by `connections.PROGRESS_BYTES`, or ends.
    request_body_seconds: float = 60.0
    # In which the client reads a part of a response. The operating system's buffers hold much of it.
    response_read_seconds: float = 300.0
    # Between two searches for connections whose time is over.
    connection_check_seconds: float = 1.0

    # Batches: the time slice of a batch in a worker thread. It also bounds what a kill can undo, since results are
    # recorded at its end.
    time_slice_seconds: float = 0.01
    # From the creation of a batch to its first line, so that a client can cancel each batch that it has just created,
    # as at OpenAI, where no batch is that fast.
    first_line_seconds: float = 0.3
    # After an error that the batch did not cause, such as a full disk.
    batch_retry_seconds: float = 5.0
    # "By default, files with purpose=batch expire after 30 days and all other files are persisted" [docs]
    batch_file_expiry_seconds: float = 30 * 24 * 3600.0

    # Between two lines in the log about the batches in progress.
    progress_report_seconds: float = 5.0

    # Webhooks: the pause after the first failed delivery is doubled after each further one, up to the longest.
    webhook_first_pause_seconds: float = 1.0
    webhook_longest_pause_seconds: float = 3600.0
    # From the end of a batch; then the server deletes the event.
    webhook_give_up_seconds: float = 72 * 3600.0
    # That a server which stops waits for a delivery that has begun.
    webhook_stop_seconds: float = 3.0


@dataclass(frozen=True)
class Limits:
    """How much the server accepts. Users never change this; tests lower it."""

    # The first line and all headers of a request.
    request_head_bytes: int = 64 * 1024
    # OpenAI takes 512 MB for files in general. Validation holds the input of a batch to 200 MB.
    file_bytes: int = 512 * 1024 * 1024
    batch_requests: int = 50_000
    batch_input_bytes: int = 200 * 1024 * 1024  # "larger than the 209715200 maximum"
    batch_embedding_inputs: int = 50_000  # "/v1/embeddings batches are also restricted to 50,000 inputs" [spec]
    # Each open batch holds three file descriptors. The other batches wait as `validating`, oldest first.
    open_batches: int = 64
    # For a line of a batch. A direct request has one attempt, since its client can repeat it.
    engine_attempts: int = 5


@dataclass(frozen=True)
class Settings:
    """One server's options.

    engine: a name, or the URL of an OpenAI-compatible server. engine_model: sent there instead of a request's model.
    engine_timeout_seconds: how long one response of such a server may take.
    concurrency: how many lines are executed at the same time, over all batches together.
    latency_seconds: least time that each line takes; `concurrency` lines take it at the same time.
    batch_seconds: least time between creation and completion of a batch; its lines are spread over it.
    completion_window_seconds: what "24h" means here; shorter in tests of expiry.
    fault_injector: what the server does wrong on purpose; may change while the server runs.
    control: whether clients may change it over HTTP.
    """

    directory: Path
    engine: str = BUILT_IN_ENGINE
    engine_model: str | None = None
    engine_timeout_seconds: float = ENGINE_TIMEOUT_SECONDS
    concurrency: int = 4
    latency_seconds: float = 0.0
    batch_seconds: float = 0.0
    completion_window_seconds: float = COMPLETION_WINDOW_SECONDS
    fault_injector: FaultInjector = field(default_factory=FaultInjector)
    control: bool = False
    timing: Timing = field(default_factory=Timing)
    limits: Limits = field(default_factory=Limits)

    @property
    def api_name(self) -> str:
        """Lets clients tell the answers of the built-in engine from those of models: `local`, or `local+` and a name.

        Of an engine's URL, it has only the host and the port, since the rest may be secret.
        """
        if self.engine == BUILT_IN_ENGINE:
            return "local"
        parts = urlsplit(self.engine)
        return f"local+{parts.hostname}:{parts.port}" if parts.hostname else f"local+{self.engine}"

    @property
    def database_path(self) -> Path:
        return self.directory / "local_api.sqlite3"

    @property
    def files_directory(self) -> Path:
        """Contents of file objects, each under its generated id."""
        return self.directory / "files"

    @property
    def uploads_directory(self) -> Path:
        """Uploads that have not ended yet; the server empties it when it starts."""
        return self.directory / "uploads"

    @property
    def work_directory(self) -> Path:
        """One folder for each batch that has not ended: its input, and the results recorded so far."""
        return self.directory / "batches"

    def input_path(self, batch_id: str) -> Path:
        """The batch's own name for its input, which a deletion of the file object does not remove."""
        return self.work_directory / batch_id / "input.jsonl"

    def make_directories(self) -> None:
        """Make the server's folders, for this user only. Raises OSError."""
        make_private_folder(self.directory, holds=FOLDER_HOLDS)
        for path in (self.files_directory, self.uploads_directory, self.work_directory):
            make_private_folder(path)
