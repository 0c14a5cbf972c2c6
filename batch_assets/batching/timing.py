"""How long the code waits for an API, for other runs and for Dagster. Tests pass shorter times."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Timing:
    """Every pause and timeout of submission, collection and the sensor.

    Creation of a batch
        upload_timeout_seconds, create_timeout_seconds: of one HTTP call.
        upload_retry_seconds: the pause after an upload whose answer was lost.
        rate_limit_seconds: the pause after a 429; it doubles with each attempt.
        file_not_found_pauses_seconds: OpenAI may not find a file that was just uploaded. A pause before each retry.
        find_batch_pauses_seconds: the list of batches may lag behind a creation whose answer was lost. A pause before
            each search, a minute in all: the case is rare, and a second batch would cost money.

    Submission of a day
        other_run_timeout_seconds, other_run_poll_seconds: for another live run that submits the same requests.
        capacity_retry: until the next attempt of a submission that a limit has no capacity for, at the latest. If a
            batch ends earlier, the sensor requests the run earlier.
        first_requeue_pause, longest_requeue_pause: of a submission that the API had no capacity for. The pause
            doubles with each attempt.

    Collection
        download_pauses_seconds: a pause before each retry of a download.
        lost_after: from then on a missing batch may count as lost, and a result file counts as complete although it
            contradicts the counts of its batch.
        file_is_gone_after: from then on a result file that the API does not find counts as deleted; before, it may be
            late. OpenAI keeps result files for 30 days.

    Requests outside of batches
        answer_timeout_seconds: how long the API may be silent. A model that reasons may need minutes.
        connect_timeout_seconds: of the connection.
        call_lifetime: how long no batch has a request that a process asks. It is longer than the process waits.

    The sensor
        poll_grace_seconds: after the deadline of a tick, for the HTTP call that has begun.
        collection_pause: how long a day whose batches have ended may wait while another run collects days, to be
            collected together with the days that end next.
        next_round_pause: before a run sends requests again that ended without an answer.
        overdue_after: how long results stay at OpenAI because other batches of their day are late. OpenAI deletes
            them after 30 days.
        max_run_attempts: how often the sensor requests a run that fails, before the pauses become long.
        first_run_pause, longest_run_pause: between two of these runs. The pause doubles with each.
        hourly_run_pause, daily_run_pause: between two later runs, the second one from `daily_runs_after` the first
            failure on.
        unmoved_after: without a change of its listed batches, the sensor retrieves the batches of a day, and again
            after the same time.
        late_after: from then on a running batch is late. It is the completion window of 24 hours, and slack.
        stuck_after: without a change of the day, for a batch that is finalizing, cancelling or in an unknown status.
    """

    upload_timeout_seconds: float = 600.0
    create_timeout_seconds: float = 60.0
    upload_retry_seconds: float = 1.0
    rate_limit_seconds: float = 5.0
    file_not_found_pauses_seconds: tuple[float, ...] = (1.0, 2.0, 4.0)
    find_batch_pauses_seconds: tuple[float, ...] = (0.0, 1.0, 4.0, 10.0, 20.0, 25.0)

    other_run_timeout_seconds: float = 600.0
    other_run_poll_seconds: float = 1.0
    capacity_retry: timedelta = timedelta(minutes=5)
    first_requeue_pause: timedelta = timedelta(minutes=1)
    longest_requeue_pause: timedelta = timedelta(hours=1)

    download_pauses_seconds: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0)
    lost_after: timedelta = timedelta(hours=25)
    file_is_gone_after: timedelta = timedelta(days=1)

    answer_timeout_seconds: float = 600.0
    connect_timeout_seconds: float = 20.0
    call_lifetime: timedelta = timedelta(minutes=15)

    poll_grace_seconds: float = 10.0
    collection_pause: timedelta = timedelta(seconds=60)
    next_round_pause: timedelta = timedelta(seconds=60)
    overdue_after: timedelta = timedelta(days=1)
    max_run_attempts: int = 5
    first_run_pause: timedelta = timedelta(seconds=30)
    longest_run_pause: timedelta = timedelta(minutes=10)
    hourly_run_pause: timedelta = timedelta(hours=1)
    daily_run_pause: timedelta = timedelta(days=1)
    daily_runs_after: timedelta = timedelta(days=1)
    unmoved_after: timedelta = timedelta(minutes=15)
    late_after: timedelta = timedelta(hours=25)
    stuck_after: timedelta = timedelta(hours=3)

    def requeue_pause(self, attempt: int) -> timedelta:
        """The pause after this attempt, for which the API had no capacity."""
        return _doubled(self.first_requeue_pause, attempt - 1, self.longest_requeue_pause)

    def run_pause(self, runs: int) -> timedelta:
        """The pause after this number of runs of the same step."""
        return _doubled(self.first_run_pause, runs - 1, self.longest_run_pause)

    def failed_run_pause(self, failures: int, failing_for: timedelta) -> timedelta:
        """The pause after this number of failed runs of the same step, whose first one failed so long ago."""
        if failures < self.max_run_attempts:
            return self.run_pause(failures)
        return self.daily_run_pause if failing_for >= self.daily_runs_after else self.hourly_run_pause


def _doubled(pause: timedelta, times: int, longest: timedelta) -> timedelta:
    doublings: int = min(times, 10)
    return min(pause * (1 << doublings), longest)
