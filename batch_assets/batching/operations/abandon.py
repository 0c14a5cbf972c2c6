"""Gives up a batch that does not end, that is not found, or whose results cannot be loaded."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from batch_assets.batching.counting import counted, usd
from batch_assets.batching.ledger import abandonment, known_batches, states, submissions
from batch_assets.batching.ledger.abandonment import BatchContent
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.states import State
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.provider.batches import RemoteBatch
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE
from batch_assets.batching.safety.outside_text import as_message
from batch_assets.batching.task_day import TaskDay


class AbandonError(Exception):
    """The batch cannot be given up; the message says why."""


def abandon_command(batch_id: str) -> str:
    """The command that gives up this batch, for a shell: an id may contain spaces, quotes or a leading dash."""
    shown = as_message(batch_id)
    return f"batch-assets abandon {'-- ' if shown.startswith('-') else ''}{shlex.quote(shown)}"


def find_submission(database: Database, batch_id: str, data_folder: Path) -> Submission:
    """The submission of the batch, which can be abandoned, or is abandoned already.

    `batch_id`: the id, or what a message shows of it, without control characters. Raises AbandonError.
    """
    known = known_batches.known_batches(database)
    found = [batch_id] if batch_id in known else [one for one in known if as_message(one) == as_message(batch_id)]
    shown = as_message(batch_id)
    if len(found) > 1:
        raise AbandonError(f"The ledger knows several batches whose ids look like {shown}. It gave up none of them.")
    # without metadata, so that only the id counts
    submission = submissions.by_batch(database, RemoteBatch(found[0], ""), data_folder) if found else None
    if submission is None:
        raise AbandonError(
            f"The ledger knows no batch {shown}. `openai_batch.batch_id` has the ids of the batches of this database."
        )
    why_not = _why_not(submission, found[0])
    if why_not is not None:
        raise AbandonError(f"{as_message(found[0])} of {submission.day} {why_not}")
    return submission


def _why_not(submission: Submission, batch_id: str) -> str | None:
    """The end of a sentence that says why the batch cannot be given up; None if it can, or if it is given up."""
    if submission.batch_id != batch_id:
        return "failed as a whole, and ran no request. The ledger no longer waits for it."
    if submission.state is State.COLLECTED:
        return "is collected: its answers and its cost are in the tables. There is nothing to give up."
    if submission.state is State.LOST:
        return "counts as lost: its requests are pending again, and a run collects it if the API lists it again."
    if submission.state not in (*states.ABANDON.sources, State.ABANDONED):
        return f"is {submission.state}: there is nothing to give up."
    return None


@dataclass(frozen=True)
class AbandonWarning:
    """What it may cost to give up a batch. As text: sentences for the user, who decides."""

    submission: Submission
    content: BatchContent

    @property
    def is_done(self) -> bool:
        """Whether the user has given up the batch already."""
        return self.submission.state is State.ABANDONED

    @property
    def days(self) -> tuple[TaskDay, ...]:
        """The day of the submission, and the days of tasks that need one of its requests."""
        return tuple(sorted({self.submission.task_day, *self.content.days}))

    @property
    def requests_elsewhere(self) -> int:
        return self.content.requests_elsewhere

    def __str__(self) -> str:
        return as_message(f"{self._present_state()} {self._requests()} {self._cost()}")

    def _present_state(self) -> str:
        submission = self.submission
        name = f"{submission.batch_id} of {submission.day}"
        has_ended = submission.state is State.ENDED or submission.ended_at is not None
        if submission.state is State.MISSING:
            return (
                f"{name} was not found at {submission.api} with the present key. Another account may have it, and be "
                "billed for it: set OPENAI_API_KEY to a key of that account, and a run collects it."
            )
        if has_ended:
            return (
                f"{name} has ended, and the API has billed it. Materialize `summaries` of the day first: its answers "
                "cost nothing more."
            )
        status = f" (its status was {submission.status})" if submission.status else ""
        return (
            f"{name}{status} may still run and be billed: giving it up does not cancel it at {submission.api}. "
            f"`batch-assets cancel {submission.day}` does."
        )

    def _requests(self) -> str:
        content = self.content
        requests = counted(content.requests, "request")
        if not content.requests and not content.requests_elsewhere:
            return "No day needs its requests."
        if self.submission.is_cancelled:
            sentence = (
                f"You cancelled {self.submission.day}: a run buys its {requests} again only after you materialize "
                "`batch_request_file`."
            )
        else:
            sentence = f"A run buys its {requests} again, except those that have an answer."
        if content.requests_elsewhere:
            sentence += f" {counted(content.requests_elsewhere, 'other')} stay in flight, in another request file too."
        return sentence

    def _cost(self) -> str:
        if self.submission.api == BUILT_IN_ENGINE:
            return "The built-in engine bills nothing."
        if self.content.expected_usd is None:
            cost = "The price of its model in batches is not known."
        else:
            cost = f"Its request file was expected to cost {usd(self.content.expected_usd)}."
        return (
            f"{cost} The budgets reserve its cost until the batch is collected: if the API lists new results of it, a "
            "run collects them."
        )


def warning_of(database: Database, submission: Submission) -> AbandonWarning:
    """What it may cost to give up the batch of the submission."""
    return AbandonWarning(submission, abandonment.content_of(database, submission))


def abandon_batch(database: Database, submission: Submission) -> None:
    """Give up the batch of the submission, which is as the user saw it; nothing changes if that is done already.

    Raises AbandonError if a run has changed the submission since then.
    """
    if submission.state is not State.ABANDONED and not abandonment.abandon(database, submission):
        raise AbandonError(
            f"A run has changed {as_message(submission.batch_id or '')} of {submission.day} meanwhile, so it was not "
            "given up. Run the command again."
        )
