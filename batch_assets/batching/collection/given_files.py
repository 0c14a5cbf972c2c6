"""Result files that the user gives: what their lines say, and why they cannot be those of a batch."""

import gzip
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from batch_assets.batching.collection.late_files import may_be_json_lines
from batch_assets.batching.collection.line_repair import lines_of
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.provider.endpoint import CHAT_COMPLETIONS
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE

LOCAL_FINGERPRINT = "fp_local_"  # how `system_fingerprint` begins in chat completions of the local Batch API
CLOCK_TOLERANCE = timedelta(days=1)
EARLIEST = datetime(2015, 1, 1, tzinfo=UTC).timestamp()  # some servers have no time in an answer


class ReloadError(Exception):
    """Nothing was changed; the message says which file cannot be loaded, why, and what to do."""


@dataclass
class FileFacts:
    """What the lines of the files of one batch say. local, other: how many chat completions the local Batch API made,
    and how many it did not. created: the earliest and the latest time of an answer (UTC, without zone).
    """

    lines: int = 0
    custom_ids: set[str] = field(default_factory=set)
    local: int = 0
    other: int = 0
    created: tuple[datetime, datetime] | None = None

    def add(self, line: dict[str, Any]) -> None:
        custom_id, response = line.get("custom_id"), line.get("response")
        if isinstance(custom_id, str):
            self.custom_ids.add(custom_id)
        body = response.get("body") if isinstance(response, dict) else None
        if not isinstance(body, dict) or body.get("error"):
            return
        is_local = str(body.get("system_fingerprint") or "").startswith(LOCAL_FINGERPRINT)
        self.local, self.other = self.local + is_local, self.other + (not is_local)
        created = body.get("created") or body.get("created_at")
        if isinstance(created, (int, float)) and EARLIEST < created < 2 * datetime.now(UTC).timestamp():
            moment = datetime.fromtimestamp(created, UTC).replace(tzinfo=None)
            first, last = self.created or (moment, moment)
            self.created = min(first, moment), max(last, moment)

    def why_not_of(
        self, submission: Submission, submitted_at: datetime | None, ended_at: datetime | None
    ) -> str | None:
        """Why these lines cannot be those of this batch: another API, or another time, has them; None: they may be."""
        api, batch_id = submission.api or "", submission.batch_id
        if self.local and not api.startswith(BUILT_IN_ENGINE):
            return f"its answers are of the local Batch API, and {batch_id} ran at {api or 'another API'}"
        if api == BUILT_IN_ENGINE and self.other and submission.endpoint == CHAT_COMPLETIONS.path:
            return f"its answers are not of the built-in engine, at which {batch_id} ran"
        if self.created is None:
            return None
        first, last = self.created
        if (submitted_at and last < submitted_at - CLOCK_TOLERANCE) or (
            ended_at and first > ended_at + CLOCK_TOLERANCE
        ):
            return f"its answers were made from {first} to {last}, and {batch_id} ran at another time"
        return None


def facts_of(paths: Sequence[Path]) -> FileFacts:
    """Read the lines. A line that is no JSON object has no facts. Raises ReloadError."""
    facts = FileFacts()
    for path in paths:
        if not may_be_json_lines(path):
            raise ReloadError(f"{path.name} is not a file of JSON lines. Download it again.")
        for _, line, _ in lines_of(path):
            facts.lines += 1
            try:
                parsed = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if isinstance(parsed, dict):
                facts.add(parsed)
    return facts


@contextmanager
def unpacked(paths: Sequence[Path]) -> Iterator[dict[Path, Path]]:
    """The given path → a path of the plain file: `prune` compresses result files.

    Raises ReloadError for a file that is not gzip, or was cut: which of its lines are missing is not known.
    """
    with TemporaryDirectory(prefix="batch_assets_") as folder:
        plain = {}
        for number, path in enumerate(paths):
            plain[path] = path
            if path.suffix == ".gz":
                plain[path] = Path(folder) / f"{number}.jsonl"
                try:
                    with gzip.open(path, "rb") as packed, plain[path].open("wb") as file:
                        shutil.copyfileobj(packed, file)
                except (EOFError, gzip.BadGzipFile, zlib.error):
                    raise ReloadError(f"{path.name} is not a whole gzip file. Download or copy it again.") from None
        yield plain
