"""What every step of a submission needs."""

import threading
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

import openai

from batch_assets.batching.ledger.claims import Limits
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.provider.identity import ApiIdentity, identify
from batch_assets.batching.submission.errors import unreachable_error
from batch_assets.batching.timing import Timing

FILES_AT_ONCE = 4  # that a run uploads side by side, whatever days they are of


class SubmissionOutcome(Enum):
    """What a run did with a submission."""

    CREATED = auto()  # it created the batch
    FOUND = auto()  # it found the batch that an earlier attempt created
    NOTHING = auto()  # it withdrew the submission, left it to another run, or did not begin it


@dataclass(frozen=True)
class Submitter:
    """A run that submits from one database (`warehouse_id`) to one API.

    stop: set when the run is terminated; it then begins no further submission.
    places: of the files that are submitted at the same time.
    """

    database: Database
    client: openai.OpenAI
    data_folder: Path
    run_id: str
    warehouse_id: str
    api: ApiIdentity
    limits: Limits = field(default_factory=Limits)
    timing: Timing = field(default_factory=Timing)
    stop: threading.Event = field(default_factory=threading.Event)
    places: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(FILES_AT_ONCE))


def make_submitter(
    database: Database,
    client: openai.OpenAI,
    data_folder: Path,
    run_id: str,
    *,
    limits: Limits | None = None,
    timing: Timing | None = None,
    identify_timeout_seconds: float | None = None,
    stop: threading.Event | None = None,
) -> Submitter:
    """The submitter of a run, for the API and the account of this client.

    `identify_timeout_seconds`: of the HTTP call that asks the API for its name; None: the timeout of the client. Raises
    SubmissionError if the API does not answer.
    """
    warehouse_id = database.warehouse_id()
    asking = client if identify_timeout_seconds is None else client.with_options(timeout=identify_timeout_seconds)
    try:
        api = identify(asking, warehouse_id)
    except openai.OpenAIError as error:
        raise unreachable_error("answer", error) from error
    return Submitter(
        database,
        client,
        data_folder,
        run_id,
        warehouse_id,
        api,
        limits or Limits(),
        timing or Timing(),
        stop or threading.Event(),
    )
