"""The two state machines, as data: the states of a submission and of a request.

`change_state` changes a submission's state only along `MOVES`. `docs/draw_states.py` draws the diagrams from this file.
"""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """The state of a submission: of one request file, and of the batch that a run creates from it."""

    PLANNED = "planned"
    CLAIMED = "claimed"
    DEFERRED = "deferred"
    SUBMITTED = "submitted"
    MISSING = "missing"
    ENDED = "ended"
    COLLECTED = "collected"
    WITHDRAWN = "withdrawn"
    ABANDONED = "abandoned"
    LOST = "lost"


MEANING = {
    State.PLANNED: "its request file is written; no run has sent it",
    State.CLAIMED: "a run is sending it; its batch may or may not exist",
    State.DEFERRED: "the API had no capacity for it, or refused the account; a run sends it again after a pause",
    State.SUBMITTED: "its batch exists",
    State.MISSING: "the API does not know its batch; the key may be another account's",
    State.ENDED: "its batch has ended, and its result files are on this disk",
    State.COLLECTED: "its results and its cost are in the tables",
    State.WITHDRAWN: "no batch of it exists, and no run will send it",
    State.ABANDONED: "the user gave up its batch",
    State.LOST: "the account that created its batch shows other batches, and not this one",
}

# Its requests are in flight: no run sends them in another file.
OPEN = (State.PLANNED, State.CLAIMED, State.DEFERRED, State.SUBMITTED, State.MISSING, State.ENDED)
# The ledger knows no batch of it.
UNSUBMITTED = (State.PLANNED, State.CLAIMED, State.DEFERRED)
# No batch of it exists.
UNSENT = (State.PLANNED, State.DEFERRED)
# The ledger knows its batch, and the results are not in the tables.
UNCOLLECTED = (State.SUBMITTED, State.MISSING, State.ENDED)
# It counts towards the API's limit of enqueued tokens, until its batch ends.
ENQUEUED = (State.CLAIMED, State.SUBMITTED)
# OpenAI may bill it, or has billed it. A lost or abandoned batch may be billed, too.
RESERVED = (*ENQUEUED, State.MISSING, State.ENDED, State.LOST, State.ABANDONED)


@dataclass(frozen=True)
class Move:
    """A step from one of the states `sources` to the state `target`. `meaning` says when it happens."""

    name: str
    sources: tuple[State, ...]
    target: State
    meaning: str


PLAN = Move("plan", (), State.PLANNED, "the run writes a request file")
CLAIM = Move("claim", (State.PLANNED, State.DEFERRED), State.CLAIMED, "the run is about to send it")
TAKE_OVER = Move("take over", (State.CLAIMED,), State.CLAIMED, "the run that claimed it no longer runs")
RELEASE = Move("release", (State.CLAIMED,), State.PLANNED, "the API refused it, and created no batch")
ADOPT = Move("adopt", (), State.SUBMITTED, "the ledger does not know this batch of the day's requests")
SUBMIT = Move("submit", (State.CLAIMED,), State.SUBMITTED, "the run created its batch, or found it at the API")
RECOVER = Move(
    "recover",
    (State.PLANNED, State.DEFERRED),
    State.SUBMITTED,
    "the API lists its batch, which the ledger does not know",
)
DEFER = Move("defer", (State.CLAIMED,), State.DEFERRED, "the API refused the account")
REQUEUE = Move("requeue", (State.SUBMITTED,), State.DEFERRED, "the API failed the batch as a whole, and ran no request")
MISS = Move("miss", (State.SUBMITTED,), State.MISSING, "the API answers 404 for its batch")
FIND = Move("find", (State.MISSING,), State.SUBMITTED, "the API knows its batch again")
LOSE = Move("lose", (State.MISSING,), State.LOST, "the account that created it shows other batches, and not this one")
END = Move("end", (State.SUBMITTED,), State.ENDED, "the batch ended, and its result files are stored")
COLLECT = Move("collect", (State.ENDED,), State.COLLECTED, "its results and its spending are in the tables")
WITHDRAW = Move(
    "withdraw",
    (State.PLANNED, State.DEFERRED, State.CLAIMED),
    State.WITHDRAWN,
    "the day was planned again, the user cancelled it, or no day needs its requests",
)
ABANDON = Move("abandon", (State.SUBMITTED, State.MISSING, State.ENDED), State.ABANDONED, "the user gives up its batch")
SEE_AGAIN = Move("see again", (State.LOST, State.ABANDONED), State.SUBMITTED, "the API lists its batch again")

MOVES = (
    PLAN, ADOPT, CLAIM, TAKE_OVER, RELEASE, SUBMIT, RECOVER, DEFER, REQUEUE, MISS, FIND, LOSE, END, COLLECT, WITHDRAW,
    ABANDON, SEE_AGAIN,
)  # fmt: skip
# By these a batch enters the ledger, or returns to it, that no run of its day has submitted.
ADOPTING_MOVES = (ADOPT, RECOVER, SEE_AGAIN)


class RequestState(StrEnum):
    """The state of a request that a day and its task need. It is derived: see `FIND_UNANSWERED` in `requests`."""

    IN_FLIGHT = "in_flight"
    ANSWERED = "answered"
    FAILED = "failed"
    BLOCKED = "blocked"
    CANCELLED = "cancelled"
    PENDING = "pending"


REQUEST_MEANING = {
    RequestState.IN_FLIGHT: "it is in a submission that is not collected yet",
    RequestState.ANSWERED: "it has an answer of a model (or of the built-in engine, while that is configured), "
    "which was not cut under a lower limit than today's",
    RequestState.FAILED: "the API did not answer it, for a permanent reason or in the last round",
    RequestState.BLOCKED: "a budget, an unknown price, an account error, a missing result file or a call outside of a "
    "batch keeps a run from sending it",
    RequestState.CANCELLED: "the user cancelled it; it is sent after the user plans the day again",
    RequestState.PENDING: "the next plan puts it into a request file",
}
