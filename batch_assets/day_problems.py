"""Problems of days in Dagster's event log: observations of their results, which the sensor of messages reads."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import dagster as dg

from batch_assets.batching.next_step import Day
from batch_assets.batching.waiting import Problem
from batch_assets.day_events import CODE_LOCATION

OBSERVATIONS_PER_TICK = 50  # Dagster takes up to 70 ms for each
PROBLEM, FACT, SENTENCE = "problem", "fact", "sentence"


@dataclass(frozen=True)
class ProblemEvent:
    """An observation of a problem. fact: see `Problem`, as a hash."""

    day: str
    storage_id: int
    location: str
    kind: str
    fact: str
    sentence: str


def observe_problems(
    key: dg.AssetKey, location: str, days: Iterable[Day], problems: Mapping[str, Problem], known: Mapping[str, str]
) -> tuple[list[dg.AssetObservation], dict[str, str]]:
    """Observations of the problems that are new, and what to remember: day → the hash of its last problem.

    key: of the results, which have no other observations. known: what the last tick remembered. A day is remembered
    for as long as it needs a step: its problem is not known in each tick, for example if the API does not answer.
    """
    observations: list[dg.AssetObservation] = []
    remembered: dict[str, str] = {}
    for day in days:
        fact, problem = known.get(day.day), problems.get(day.label)
        if problem is not None and fact != _hash(problem) and len(observations) < OBSERVATIONS_PER_TICK:
            fact = _hash(problem)
            metadata = {PROBLEM: problem.kind, FACT: fact, SENTENCE: problem.sentence, CODE_LOCATION: location}
            observations.append(dg.AssetObservation(key, partition=day.day, metadata=metadata))
        if fact is not None:
            remembered[day.day] = fact
    return observations, remembered


def newest_problem_ids(instance: dg.DagsterInstance, key: dg.AssetKey) -> Mapping[str, int]:
    """day → storage id of the newest observation of a problem; one query."""
    return instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_OBSERVATION)


def read_problems(instance: dg.DagsterInstance, key: dg.AssetKey, storage_ids: Sequence[int]) -> list[ProblemEvent]:
    """The observations with these storage ids."""
    if not storage_ids:
        return []
    records_filter = dg.AssetRecordsFilter(asset_key=key, storage_ids=storage_ids)
    return _events(instance.fetch_observations(records_filter, limit=len(storage_ids)).records)


def problems_before(
    instance: dg.DagsterInstance, key: dg.AssetKey, event: ProblemEvent, limit: int
) -> list[ProblemEvent]:
    """The earlier observations of the same day, the newest first."""
    records_filter = dg.AssetRecordsFilter(
        asset_key=key, asset_partitions=[event.day], before_storage_id=event.storage_id
    )
    return _events(instance.fetch_observations(records_filter, limit=limit).records)


def _events(records: Sequence[dg.EventLogRecord]) -> list[ProblemEvent]:
    events = []
    for record in records:
        observation = record.event_log_entry.asset_observation
        if observation is None or observation.partition is None or PROBLEM not in observation.metadata:
            continue
        kind, fact, sentence, location = (
            str(observation.metadata[name].value) for name in (PROBLEM, FACT, SENTENCE, CODE_LOCATION)
        )
        events.append(ProblemEvent(observation.partition, record.storage_id, location, kind, fact, sentence))
    return events


def _hash(problem: Problem) -> str:
    return sha256(f"{problem.kind}\n{problem.fact}".encode()).hexdigest()[:12]
