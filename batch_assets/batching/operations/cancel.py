"""What the user does beside the assets: cancel a day."""

from dataclasses import dataclass, field
from pathlib import Path

import openai

from batch_assets.batching.ledger import submissions, transitions, withdrawal
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.outcomes import CANCELLED_BY_USER
from batch_assets.batching.ledger.requests import Question, hold_pending
from batch_assets.batching.ledger.states import State
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.provider.elsewhere import elsewhere_message, is_elsewhere
from batch_assets.batching.provider.identity import ApiIdentity, identify
from batch_assets.batching.safety.outside_text import as_message


@dataclass
class Cancelled:
    """What `cancel_day` did: batches asked to stop, batches that had ended already, shards that never go out.

    `not_found` are the ids of batches that the API does not know with the present key; `elsewhere` says of batches of
    another API that they were not asked to stop. Both may go on, and cost.
    """

    stopped: int = 0
    had_ended: int = 0
    withdrawn: int = 0
    unknown: int = 0  # being submitted just now, or by a run that died: their batch may or may not exist
    not_found: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        sentences = [*self.elsewhere]
        if self.not_found:
            sentences.append(
                f"The API does not find {as_message(', '.join(self.not_found))} with the present key: it may go on and "
                "cost. Set the OPENAI_API_KEY that made it, and cancel again."
            )
        if self.unknown:
            sentences.append(
                f"{self.unknown} submissions may be under way: materialize `openai_batch`, which looks for their "
                "batches and makes none, and cancel again."
            )
        if sentences or self.stopped or self.had_ended or self.withdrawn:
            sentences.append(
                f"{self.stopped} batches were asked to stop, {self.had_ended} had ended, {self.withdrawn} files won't "
                "be sent. What is answered will be in `summaries`; the rest goes out when `batch_request_file` is "
                "materialized again."
            )
        return " ".join(sentences) or "There was nothing to cancel."


def cancel_day(database: Database, client: openai.OpenAI, *, day: str, data_folder: Path) -> Cancelled:
    """Stop what the day has in flight, withdraw what waits, and hold what is pending. What is answered stays.

    Another day's batch that holds an equal article of this one goes on; so does a batch at another API than this one,
    where an id may mean another batch.

    The requests that end without an answer aren't sent again by the sensor, but only when the user materializes
    `batch_request_file` of the day. A batch that may exist, since its creation was begun, has to be found first. Raises
    openai.OpenAIError; what was cancelled until then is.
    """
    withdrawn, unknown = stop_submitting(database, day=day, data_folder=data_folder)
    report = Cancelled(withdrawn=withdrawn, unknown=unknown)
    in_flight = [s for s in submissions.uncollected(database, day, data_folder) if s.day == day]
    for submission in in_flight:
        # first: a batch that ends as cancelled must be known for one whose requests the user does not want to go out
        transitions.record_cancel_request(database, submission)
    try:
        api = identify(client, database.warehouse_id())
    except openai.OpenAIError:
        hold_pending(database, day, Question())
        raise
    refusals: list[openai.OpenAIError] = []
    for submission in in_flight:
        try:
            _stop(client, api, submission, report)
        except openai.OpenAIError as error:  # one that can't be stopped now must not save the others
            refusals.append(error)
    hold_pending(database, day, Question(api.name))
    if refusals:
        raise refusals[0]
    return report


def _stop(client: openai.OpenAI, api: ApiIdentity, submission: Submission, report: Cancelled) -> None:
    """Ask the API that made the batch to stop it, and note what it says."""
    batch_id = submission.batch_id or ""
    if submission.state is State.ENDED:
        report.had_ended += 1
    elif is_elsewhere(submission.api, api):
        sentence = elsewhere_message(
            f"{batch_id} of {submission.day} was made",
            submission.api,
            api,
            what_then="It goes on and costs: set OPENAI_BASE_URL and OPENAI_API_KEY to that API, and cancel again.",
        )
        report.elsewhere.append(sentence)
    else:
        try:
            client.with_options(max_retries=0).batches.cancel(batch_id)
            report.stopped += 1
        except openai.ConflictError:
            report.had_ended += 1
        except openai.NotFoundError:  # it is another account's, or was deleted there
            report.not_found.append(batch_id)


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
            withdrawn += withdrawal.withdraw(database, submission, because=CANCELLED_BY_USER)
        else:
            transitions.record_cancel_request(database, submission)
            unknown += 1
    return withdrawn, unknown
