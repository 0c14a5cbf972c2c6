"""What the user does beside the assets: cancel a day."""

from dataclasses import dataclass
from pathlib import Path

import openai

from batch_assets.batching.api_identity import identify
from batch_assets.batching.ledger import submissions, transitions
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.requests import Question, hold_pending
from batch_assets.batching.ledger.states import State


@dataclass
class Cancelled:
    """What `cancel_day` did: batches asked to stop, batches that had ended already, shards that never go out."""

    stopped: int = 0
    had_ended: int = 0
    withdrawn: int = 0
    unknown: int = 0  # being submitted just now, or by a run that died: their batch may or may not exist

    def __str__(self) -> str:
        if self.unknown:
            return (
                f"{self.unknown} submissions may be under way: materialize `openai_batch`, which looks for their "
                "batches and makes none, and cancel again. " + self._rest
            )
        return self._rest if self.stopped or self.had_ended or self.withdrawn else "There was nothing to cancel."

    @property
    def _rest(self) -> str:
        return (
            f"{self.stopped} batches were asked to stop, {self.had_ended} had ended, {self.withdrawn} files won't be "
            "sent. What is answered will be in `summaries`; the rest goes out when `batch_request_file` is "
            "materialized again."
        )


def cancel_day(database: Database, client: openai.OpenAI, *, day: str, data_folder: Path) -> Cancelled:
    """Stop what the day has in flight, withdraw what waits, and hold what is pending. What is answered stays.

    Another day's batch that holds an equal article of this one goes on.

    The requests that end without an answer aren't sent again by the sensor, but only when the user materializes
    `batch_request_file` of the day. A batch that may exist, since its creation was begun, has to be found first. Raises
    openai.OpenAIError; what was cancelled until then is.
    """
    withdrawn, unknown = stop_submitting(database, day=day, data_folder=data_folder)
    report = Cancelled(withdrawn=withdrawn, unknown=unknown)
    refusals: list[openai.OpenAIError] = []
    for submission in submissions.uncollected(database, day, data_folder):
        if submission.day != day:
            continue
        # first: a batch that ends as cancelled must be known for one that nobody wants to go out again
        transitions.record_cancel_request(database, submission)
        try:
            client.with_options(max_retries=0).batches.cancel(submission.batch_id or "")
            report.stopped += 1
        except (openai.ConflictError, openai.NotFoundError):  # it has ended, or isn't there any more
            report.had_ended += 1
        except openai.OpenAIError as error:  # one that can't be stopped now must not save the others
            refusals.append(error)
    try:
        hold_pending(database, day, Question(identify(client, database.warehouse_id()).name))
    except openai.OpenAIError as error:
        hold_pending(database, day, Question())
        refusals.append(error)
    if refusals:
        raise refusals[0]
    return report


def stop_submitting(database: Database, *, day: str, data_folder: Path) -> tuple[int, int]:
    """Let nothing more of the day go out by itself: for a user who has terminated the run that submits it.

    What has no batch yet is withdrawn; it goes out when `batch_request_file` is materialized by the user. Batches that
    exist go on. Returns how many submissions were withdrawn, and how many are of unknown fate: `submit_day` looks for
    their batches, and makes none.
    """
    withdrawn = unknown = 0
    for submission in submissions.unsubmitted(database, day, data_folder):
        if submission.day != day:
            continue
        if submission.state is not State.CLAIMED:
            withdrawn += transitions.withdraw(database, submission, because=transitions.CANCELLED_BY_USER)
        else:
            transitions.record_cancel_request(database, submission)
            unknown += 1
    return withdrawn, unknown
