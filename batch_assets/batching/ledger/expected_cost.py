"""What a request file will cost: by what batches of its model really used or, before that, by its bytes and its limit.

What answers use depends on the limit on them. Batches under another limit are no measure where that limit has cut one
of their answers: the longer ones are not known, and are just those that a higher limit asks for again.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import duckdb

from batch_assets.batching.provider.identity import BUILT_IN_ENGINE
from batch_assets.batching.provider.prices import BYTES_PER_TOKEN, BatchRates, ModelPrice, batch_rates

# Only requests that were billed: one that failed tells no usage, and would count as one of no tokens. Bytes are known
# of whole files, so a file counts by the share of its requests that were billed.
CALIBRATION = """
    WITH batch AS (
        SELECT
            submission_id, sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
            sum(billed_requests) AS billed_requests, sum(cut_requests) AS cut_requests
        FROM spending
        WHERE model = $model AND api <> $built_in AND kind <> 'unattributed' AND billed_requests > 0
        GROUP BY submission_id, batch_id
    ),
    of_limit AS (
        SELECT
            request_max_output_tokens AS max_output_tokens, sum(input_tokens) AS input_tokens,
            sum(output_tokens) AS output_tokens, sum(billed_requests) AS billed_requests,
            sum(bytes * billed_requests / requests) AS bytes
        FROM batch JOIN batch_request_file USING (submission_id)
        GROUP BY request_max_output_tokens
        HAVING sum(cut_requests) = 0 OR request_max_output_tokens >= $max_output_tokens
    )
    SELECT sum(input_tokens) / sum(bytes), sum(output_tokens) / sum(billed_requests)
    FROM of_limit WHERE input_tokens > 0 AND output_tokens > 0
"""


class RequestFile(Protocol):
    """As far as its cost goes. `max_output_tokens`: of all its requests together; 0 where no limit is known."""

    @property
    def model(self) -> str: ...
    @property
    def bytes(self) -> int: ...
    @property
    def requests(self) -> int: ...
    @property
    def max_output_tokens(self) -> int: ...


class SizeOfFile(NamedTuple):
    """A request file of which nothing else is needed."""

    model: str
    bytes: int
    requests: int
    max_output_tokens: int


@dataclass(frozen=True)
class Calibration:
    """How many tokens requests of a model really had: of input per byte of the request file, of output per request."""

    input_tokens_per_byte: float
    output_tokens_per_request: float


def calibration(
    connection: duckdb.DuckDBPyConnection, model: str, max_output_tokens: float | None = None
) -> Calibration | None:
    """From what models billed, for requests with this limit on their output; None before the first such batch.

    Without a limit (None), only of limits that have cut no answer. The built-in engine's token counts calibrate
    nothing.
    """
    row = connection.execute(
        CALIBRATION, {"model": model, "built_in": BUILT_IN_ENGINE, "max_output_tokens": max_output_tokens}
    ).fetchone()
    return Calibration(row[0], row[1]) if row and row[0] is not None else None


def measured_for(connection: duckdb.DuckDBPyConnection, file: RequestFile, api: str) -> Calibration | None:
    """By which the file's cost at this API is expected; None: by its bytes and its limit."""
    if api == BUILT_IN_ENGINE:
        return None
    has_limit = file.max_output_tokens > 0 and file.requests > 0
    return calibration(connection, file.model, file.max_output_tokens / file.requests if has_limit else None)


def expected_cost(
    connection: duckdb.DuckDBPyConnection, file: RequestFile, api: str, own_prices: tuple[ModelPrice, ...]
) -> float | None:
    """USD that the file will cost at this API by today's prices; None where they, or any limit on it, are not known."""
    rates = batch_rates(file.model, api=api, own_prices=own_prices)
    return expected_cost_usd(rates, measured_for(connection, file, api), file)


def expected_cost_usd(rates: BatchRates | None, measured: Calibration | None, file: RequestFile) -> float | None:
    """What a request file will cost, by what was measured, or else by its bytes and the limit on its output."""
    if rates is None or (measured is None and file.max_output_tokens <= 0):
        return None
    tokens_per_byte = measured.input_tokens_per_byte if measured else 1 / BYTES_PER_TOKEN
    output_tokens: float = file.max_output_tokens
    if measured is not None:
        by_measure = file.requests * measured.output_tokens_per_request
        output_tokens = min(by_measure, output_tokens) if output_tokens > 0 else by_measure
    return file.bytes * tokens_per_byte * rates.input_usd + output_tokens * rates.output_usd
