"""What a request file will cost: by the tokens that batches and synchronous calls of its task and model used or, before
the first one, by its size.

How many tokens an answer uses depends on the limit on it. Batches under a lower limit do not count if it cut one of
their answers: the full length of that answer is not known, and a higher limit sends just these requests again.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import duckdb

from batch_assets.batching.provider.identity import BUILT_IN_ENGINE
from batch_assets.batching.provider.prices import BatchRates, ModelPrice, batch_rates

# Only requests that were billed: a failed request has no usage, and would count as a request without tokens. The ledger
# knows the estimate for whole files only, so a file counts by the share of its requests that were billed.
CALIBRATION = """
    WITH batch AS (
        SELECT
            submission_id, sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
            sum(billed_requests) AS billed_requests, sum(cut_requests) AS cut_requests
        FROM spending
        WHERE task = $task AND model = $model AND api <> $built_in AND kind <> 'unattributed' AND billed_requests > 0
        GROUP BY submission_id, batch_id
    ),
    file AS (
        SELECT submission_id, request_max_output_tokens, estimated_input_tokens, requests FROM batch_request_file
        UNION ALL
        SELECT call_id, max_output_tokens, estimated_input_tokens, 1 FROM synchronous_call
    ),
    of_limit AS (
        SELECT
            request_max_output_tokens AS max_output_tokens, sum(input_tokens) AS input_tokens,
            sum(output_tokens) AS output_tokens, sum(billed_requests) AS billed_requests,
            sum(estimated_input_tokens * billed_requests / requests) AS estimated_input_tokens
        FROM batch JOIN file USING (submission_id)
        GROUP BY request_max_output_tokens
        HAVING sum(cut_requests) = 0 OR request_max_output_tokens >= $max_output_tokens
    )
    SELECT sum(input_tokens) / sum(estimated_input_tokens), sum(output_tokens) / sum(billed_requests)
    FROM of_limit WHERE input_tokens > 0 AND (output_tokens > 0 OR max_output_tokens = 0)
"""


class RequestFile(Protocol):
    """What the cost depends on.

    estimated_input_tokens: by its size. max_output_tokens: the limit of all its requests together.
    request_max_output_tokens: of one request; 0: an answer has no output tokens, None: no limit is known.
    """

    @property
    def task(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def estimated_input_tokens(self) -> int: ...
    @property
    def requests(self) -> int: ...
    @property
    def max_output_tokens(self) -> int: ...
    @property
    def request_max_output_tokens(self) -> int | None: ...


class FileSize(NamedTuple):
    """The size of a request file: a `RequestFile` without anything else."""

    task: str
    model: str
    estimated_input_tokens: int
    requests: int
    max_output_tokens: int
    request_max_output_tokens: int | None


@dataclass(frozen=True)
class Calibration:
    """How many tokens requests of a task and a model used: of input per estimated token, of output per request."""

    input_tokens_per_estimated: float
    output_tokens_per_request: float


def calibration(
    connection: duckdb.DuckDBPyConnection, task: str, model: str, max_output_tokens: float | None = None
) -> Calibration | None:
    """By the spending of earlier batches, for requests with this limit on their output; None before the first one.

    Without a limit (None), only batches whose limit has cut no answer count. The built-in engine's batches never count.
    """
    row = connection.execute(
        CALIBRATION,
        {"task": task, "model": model, "built_in": BUILT_IN_ENGINE, "max_output_tokens": max_output_tokens},
    ).fetchone()
    return Calibration(*row) if row is not None and None not in row else None


def calibration_for(connection: duckdb.DuckDBPyConnection, file: RequestFile, api: str) -> Calibration | None:
    """The calibration for the file at this API; None: its size decides."""
    if api == BUILT_IN_ENGINE:
        return None
    has_limit = file.request_max_output_tokens is not None and file.requests > 0
    return calibration(connection, file.task, file.model, file.max_output_tokens / file.requests if has_limit else None)


def expected_cost(
    connection: duckdb.DuckDBPyConnection, file: RequestFile, api: str, own_prices: tuple[ModelPrice, ...]
) -> float | None:
    """USD that the file will cost at this API by today's prices; None if they, or any limit on it, are not known."""
    rates = batch_rates(file.model, api=api, own_prices=own_prices)
    return expected_cost_usd(rates, calibration_for(connection, file, api), file)


def expected_cost_usd(rates: BatchRates | None, calibrated: Calibration | None, file: RequestFile) -> float | None:
    """USD that a request file will cost, by the calibration or else by its size and the limit on its output."""
    if rates is None or (calibrated is None and file.request_max_output_tokens is None):
        return None
    input_tokens: float = file.estimated_input_tokens
    output_tokens: float = file.max_output_tokens
    if calibrated is not None:
        input_tokens *= calibrated.input_tokens_per_estimated
        by_calibration = file.requests * calibrated.output_tokens_per_request
        has_limit = file.request_max_output_tokens is not None
        output_tokens = min(by_calibration, output_tokens) if has_limit else by_calibration
    return input_tokens * rates.input_usd + output_tokens * rates.output_usd
