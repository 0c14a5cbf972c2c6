"""How far batches are, for many of them at once and with few calls."""

import time
from collections.abc import Collection
from datetime import datetime

import openai

from batch_assets.batching.remote import RemoteBatch, list_batches, retrieve_batch


def look_up(
    client: openai.OpenAI, batch_ids: Collection[str], *, since: datetime, deadline: float
) -> dict[str, RemoteBatch]:
    """These batches as they are, by listing what was made after `since`, and singly what that didn't show.

    Stops at `deadline` (of `time.monotonic`) with what it has until then: a batch that is not in the answer was not
    asked for, or could not be had. Raises openai.OpenAIError only if the list itself cannot be had.
    """
    wanted = set(batch_ids)
    seen: dict[str, RemoteBatch] = {}
    for batch in list_batches(client, since=since):
        if batch.id in wanted:
            seen[batch.id] = batch
        if len(seen) == len(wanted) or time.monotonic() > deadline:
            break
    for batch_id in sorted(wanted - seen.keys()):
        if time.monotonic() > deadline:
            break
        try:
            seen[batch_id] = retrieve_batch(client, batch_id)
        except openai.OpenAIError:
            continue  # one that can't be had now must not hide the others; it is asked for again
    return seen
