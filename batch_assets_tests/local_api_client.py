"""A running local Batch API, as tests see it."""

import json
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from openai import OpenAI
from openai.types import Batch

ENDED = ("completed", "failed", "expired", "cancelled")


@dataclass(frozen=True)
class LocalApi:
    """A running local Batch API; `url` ends in /v1."""

    url: str
    client: OpenAI
    directory: Path

    def stats(self) -> dict[str, int]:
        """files_created, batches_created, requests_executed, requests_in_flight."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/stats", timeout=10) as answer:
            stats: dict[str, int] = json.load(answer)
        return stats

    def wait(self, batch_id: str, *, seconds: float = 20.0) -> Batch:
        """The batch once it has ended; fails the test when that takes longer than `seconds`."""
        deadline = time.monotonic() + seconds
        client = self.client.with_options(max_retries=3)  # the server may just have closed an idle connection
        while (batch := client.batches.retrieve(batch_id)).status not in ENDED:
            assert time.monotonic() < deadline, f"{batch_id} is still {batch.status}: {batch.request_counts}"
            time.sleep(0.01)
        return batch
