"""What a run submits with: passed to every step of a submission."""

from dataclasses import dataclass, field
from pathlib import Path

import openai

from batch_assets.batching.ledger.claims import Limits
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.provider.identity import ApiIdentity, identify
from batch_assets.batching.submission.errors import unreachable
from batch_assets.batching.timing import Timing


@dataclass(frozen=True)
class Submitter:
    """A run of one database (`warehouse_id`) that submits to `api`."""

    database: Database
    client: openai.OpenAI
    data_folder: Path
    run_id: str
    warehouse_id: str
    api: ApiIdentity
    limits: Limits = field(default_factory=Limits)
    timing: Timing = field(default_factory=Timing)


def identify_api(database: Database, client: openai.OpenAI) -> ApiIdentity:
    """Which API and account would get the batches. Raises SubmissionError where none answers."""
    try:
        return identify(client, database.warehouse_id())
    except openai.OpenAIError as error:
        raise unreachable("answer", error) from error
