"""The two state machines, as data: what becomes of a submission, and what is known of a request.

`submissions` changes a submission's state only along `MOVES`; documentation and tests are made from this file.
"""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Of a submission: one request file on its way to OpenAI and back."""

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
    State.PLANNED: "its request file is written; nothing was sent",
    State.CLAIMED: "a run sends it; its batch may or may not exist",
    State.DEFERRED: "the API had no room for it, or refused the account; it goes out again after a pause",
    State.SUBMITTED: "its batch exists",
    State.MISSING: "the API does not know its batch; the key may be another account's",
    State.ENDED: "its batch has ended, and its result files are on this disk",
    State.COLLECTED: "its results and what it cost are in the tables",
    State.WITHDRAWN: "nothing of it was sent, and nothing will be",
    State.ABANDONED: "the user gave its batch up",
    State.LOST: "its batch is gone: the account that made it shows other batches, and not this one",
}

# Its requests are under way: none of them is sent in another file.
OPEN = (State.PLANNED, State.CLAIMED, State.DEFERRED, State.SUBMITTED, State.MISSING, State.ENDED)
UNSUBMITTED = (State.PLANNED, State.CLAIMED, State.DEFERRED)  # no batch of it is known
UNSENT = (State.PLANNED, State.DEFERRED)  # no batch of it exists
UNCOLLECTED = (State.SUBMITTED, State.MISSING, State.ENDED)  # a batch of it is known, its results are not in the tables
AT_THE_API = (State.CLAIMED, State.SUBMITTED)  # takes room in the API's limits, until its batch ends
# May still cost what it was expected to, or has cost it: what becomes of a batch that was given up is not known.
RESERVED = (*AT_THE_API, State.MISSING, State.ENDED, State.LOST, State.ABANDONED)


@dataclass(frozen=True)
class Move:
    """A way from some states to another one. `meaning` says when a run takes it."""

    name: str
    sources: tuple[State, ...]
    target: State
    meaning: str


PLAN = Move("plan", (), State.PLANNED, "the run writes a request file")
CLAIM = Move("claim", (State.PLANNED, State.DEFERRED), State.CLAIMED, "the run is about to send it")
TAKE_OVER = Move("take over", (State.CLAIMED,), State.CLAIMED, "the run that had it is dead")
RELEASE = Move("release", (State.CLAIMED,), State.PLANNED, "the API refused it before anything existed")
ADOPT = Move("adopt", (), State.SUBMITTED, "a batch of our requests exists that no submission has")
SUBMIT = Move("submit", (State.CLAIMED,), State.SUBMITTED, "the run created its batch, or found it")
RECOVER = Move("recover", (State.PLANNED, State.DEFERRED), State.SUBMITTED, "its batch is listed, the ledger is older")
DEFER = Move("defer", (State.CLAIMED,), State.DEFERRED, "the API refused the account")
REQUEUE = Move("requeue", (State.SUBMITTED,), State.DEFERRED, "the batch failed as a whole before anything ran")
MISS = Move("miss", (State.SUBMITTED,), State.MISSING, "the API answers 404 for its batch")
FIND = Move("find", (State.MISSING,), State.SUBMITTED, "the API knows its batch again")
LOSE = Move("lose", (State.MISSING,), State.LOST, "the account that made it shows other batches, and not this one")
END = Move("end", (State.SUBMITTED,), State.ENDED, "the batch ended, and its result files are stored")
COLLECT = Move("collect", (State.ENDED,), State.COLLECTED, "its results and its spending are in the tables")
WITHDRAW = Move(
    "withdraw",
    (State.PLANNED, State.DEFERRED, State.CLAIMED),
    State.WITHDRAWN,
    "it was planned anew, cancelled, or is no longer wanted",
)
ABANDON = Move("abandon", (State.SUBMITTED, State.MISSING, State.ENDED), State.ABANDONED, "the user gives its batch up")
SEE_AGAIN = Move("see again", (State.LOST, State.ABANDONED), State.SUBMITTED, "its batch is listed again")

MOVES = (
    PLAN, ADOPT, CLAIM, TAKE_OVER, RELEASE, SUBMIT, RECOVER, DEFER, REQUEUE, MISS, FIND, LOSE, END, COLLECT, WITHDRAW,
    ABANDON, SEE_AGAIN,
)  # fmt: skip


class RequestState(StrEnum):
    """Of a request that a day and its task need. Derived, in this order: the first that holds."""

    IN_FLIGHT = "in_flight"
    ANSWERED = "answered"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PENDING = "pending"


REQUEST_MEANING = {
    RequestState.IN_FLIGHT: "it is in a submission that is not collected yet",
    RequestState.ANSWERED: "it has an answer of a model (or of the built-in engine, while that is configured) "
    "that was not cut under a lower limit than today's",
    RequestState.FAILED: "it came back without an answer, for a reason that stays or for the last time",
    RequestState.CANCELLED: "the user cancelled it; it goes out when the user plans the day again",
    RequestState.PENDING: "it is to be sent",
}
