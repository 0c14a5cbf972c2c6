"""Cancels a day."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import openai

from batch_assets.batching.counting import counted
from batch_assets.batching.ledger import submissions, transitions, withdrawal
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.outcomes import CANCELLED_BY_USER
from batch_assets.batching.ledger.requests import RequestStateRules, cancel_pending
from batch_assets.batching.ledger.states import State
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.operations.abandon import abandon_command
from batch_assets.batching.provider.batches import MISSING, RemoteBatch, now_utc, retrieve_batch
from batch_assets.batching.provider.elsewhere import is_at_other_api, other_api_message
from batch_assets.batching.provider.identity import ApiIdentity, identify
from batch_assets.batching.safety.outside_text import as_message
from batch_assets.batching.task_day import FIRST_TASK, TaskDay


@dataclass
class Cancelled:
    """What `cancel_day` did.

    stopped: batches that the API was asked to cancel.
    had_ended: batches that had ended before.
    not_stopped: sentences about batches that have not ended, and that the API refused to cancel.
    withdrawn: request files that no run will send.
    unknown: submissions whose batch may exist, since a run is submitting them or has ended during that.
    not_found: ids of batches that the API does not find with the present key. They may go on and cost money.
    elsewhere: sentences about batches at another API, which was not asked. They may go on and cost money.
    task: whose table will have the answers.
    """

    stopped: int = 0
    had_ended: int = 0
    not_stopped: list[str] = field(default_factory=list)
    withdrawn: int = 0
    unknown: int = 0
    not_found: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    task: str = FIRST_TASK

    def __str__(self) -> str:
        sentences = [*self.elsewhere, *self.not_stopped]
        if self.not_found:
            sentences.append(
                f"The API does not find {as_message(', '.join(self.not_found))} with the present key: it may go on and "
                "cost money. Set the OPENAI_API_KEY that created it, and cancel again."
            )
        if self.unknown:
            sentences.append(
                f"{counted(self.unknown, 'submission')} may have a batch: materialize `openai_batch`, which searches "
                "for it and creates none, and cancel again."
            )
        if sentences or self.stopped or self.had_ended or self.withdrawn:
            sentences.append(
                f"Asked the API to cancel {counted(self.stopped, 'batch', 'batches')}; {self.had_ended} had ended."
            )
            if self.withdrawn:
                sentences.append(f"{counted(self.withdrawn, 'request file')} will not be sent.")
            sentences.append(
                f"The answers that exist will be in `{self.task}`. A run sends the other requests after you "
                "materialize `batch_request_file` and `openai_batch` again."
            )
        return " ".join(sentences) or "There was nothing to cancel."


def cancel_day(database: Database, client: openai.OpenAI, *, day: TaskDay, data_folder: Path) -> Cancelled:
    """Cancel the day's batches, withdraw its unsent files, and hold its pending requests. Answers stay.

    Does not cancel the batch of another task or day that has an equal request, or a batch at another API: there, the id
    may belong to another batch.

    The sensor does not send the requests that end without an answer. A run sends them after the user materializes
    `batch_request_file` of the day. If a run has begun to create a batch, a later run must find it before it can be
    cancelled. Raises openai.OpenAIError; what was cancelled until then stays cancelled.
    """
    stopped = stop_submitting(database, day=day, data_folder=data_folder)
    report = Cancelled(withdrawn=stopped.withdrawn, unknown=stopped.unknown, task=day.task)
    in_flight = [
        submission for submission in submissions.uncollected(database, day, data_folder) if submission.task_day == day
    ]
    for submission in in_flight:
        # first: when the batch ends as cancelled, the ledger must know that the user does not want it sent again
        transitions.record_cancel_request(database, submission)
    try:
        api = identify(client, database.warehouse_id())
    except openai.OpenAIError:
        cancel_pending(database, day, RequestStateRules())
        raise
    errors: list[openai.OpenAIError] = []
    for submission in in_flight:
        try:
            _stop(client, api, submission, report)
        except openai.OpenAIError as error:  # an error for one batch must not keep the others running
            errors.append(error)
    cancel_pending(database, day, RequestStateRules(api.name))
    if errors:
        raise errors[0]
    return report


def _stop(client: openai.OpenAI, api: ApiIdentity, submission: Submission, report: Cancelled) -> None:
    """Ask the API to cancel the batch, and note the result in the report."""
    batch_id = submission.batch_id or ""
    if submission.state is State.ENDED:
        report.had_ended += 1
    elif is_at_other_api(submission.api, api):
        sentence = other_api_message(
            f"{batch_id} of {submission.day} was made",
            submission.api,
            api,
            what_then="It goes on and costs money. Set OPENAI_BASE_URL and OPENAI_API_KEY to that API. Cancel again.",
        )
        report.elsewhere.append(sentence)
    else:
        try:
            client.with_options(max_retries=0).batches.cancel(batch_id)
            report.stopped += 1
        except openai.ConflictError:  # OpenAI refuses this for a batch that has ended, or is `finalizing`
            _record_refusal(retrieve_batch(client, batch_id), submission, report)
        except openai.NotFoundError:  # it belongs to another account, or was deleted
            report.not_found.append(batch_id)


def _record_refusal(batch: RemoteBatch, submission: Submission, report: Cancelled) -> None:
    """Note in the report what the API returns for a batch that it refused to cancel."""
    batch_id = submission.batch_id or ""
    if batch.status == MISSING:
        report.not_found.append(batch_id)
    elif batch.has_ended:
        report.had_ended += 1
    else:
        sentence = as_message(
            f"The API refused to cancel {batch_id} of {submission.day}. It has not ended: its status is "
            f"{batch.status or 'not known'}{_since(batch)}. It may go on and cost money; a run collects it when it has "
            "ended."
        )
        report.not_stopped.append(f"{sentence} If it does not end: `{abandon_command(batch_id)}` gives it up.")


def _since(batch: RemoteBatch) -> str:
    """Since when the batch has its status, or when it was created; empty if the API does not return that."""
    if batch.status_since is not None:
        return f" since {_moment(batch.status_since)}"
    return "" if batch.created_at is None else f", and it was created on {_moment(batch.created_at)}"


def _moment(moment: datetime) -> str:
    days = (now_utc() - moment).days
    return f"{moment:%Y-%m-%d %H:%M} UTC" + (f" ({counted(days, 'day')})" if days > 0 else "")


class StoppedSubmissions(NamedTuple):
    """How many submissions were withdrawn, and of how many a batch may exist: `submit_day` searches for it."""

    withdrawn: int
    unknown: int


def stop_submitting(database: Database, *, day: TaskDay, data_folder: Path) -> StoppedSubmissions:
    """Withdraw the day's submissions that have no batch: the user has terminated the run, or cancelled the day.

    A run sends these requests after the user materializes `batch_request_file`. Batches that exist go on. For a
    submission whose batch may exist, `submit_day` searches for the batch and creates none.
    """
    withdrawn = unknown = 0
    for submission in submissions.unsubmitted(database, day, data_folder):
        if submission.task_day != day:
            continue
        if submission.state is not State.CLAIMED:
            withdrawn += withdrawal.withdraw(database, submission, because=CANCELLED_BY_USER)
        else:
            transitions.record_cancel_request(database, submission)
            unknown += 1
    return StoppedSubmissions(withdrawn, unknown)
