"""What a day will cost, before it is submitted. An estimate, and labelled so.

Tokens are estimated from bytes and from the limit on output, until batches of the same model have come back: then
from how many tokens their bytes and requests really had.
"""

from dataclasses import dataclass

import duckdb

from batch_assets.batching.ledger import WAITED_FOR
from batch_assets.batching.outside_text import as_code
from batch_assets.batching.prices import BYTES_PER_TOKEN, batch_rates


@dataclass(frozen=True)
class Estimate:
    """USD of a day: `spent_usd` on answers that are there, `expected_usd` for what is planned or in flight.

    None where the price of a model is not known. `is_calibrated`: by batches that came back.
    """

    day: str
    requests: int
    spent_usd: float
    expected_usd: float | None
    model: str
    is_calibrated: bool

    @property
    def total_usd(self) -> float | None:
        return None if self.expected_usd is None else self.spent_usd + self.expected_usd

    def is_within(self, limit_usd: float) -> bool:
        """A day with nothing left to send is always within; one of unknown cost never."""
        return self.requests == 0 or (self.total_usd is not None and self.total_usd <= limit_usd)

    def sentence(self, limit_usd: float) -> str:
        """For the person who wonders why nothing was submitted."""
        if self.total_usd is None:
            cost = f"would cost nobody knows what: the price of {as_code(self.model)} in batches isn't known"
        else:
            cost = (
                f"would bring the day to an estimated ${self.total_usd:.4f} (of which ${self.spent_usd:.4f} is spent)"
            )
        return (
            f"{self.requests} requests of {self.day} {cost}; BATCH_ASSETS_MAX_COST_USD allows ${limit_usd:.4f}. "
            "Nothing was submitted. Raise the limit, choose another model, or have fewer articles."
        )


def estimate_day(connection: duckdb.DuckDBPyConnection, day: str) -> Estimate:
    """Estimate a day from the request files that it waits for, and from the answers that it has.

    Files of another day count where they hold an equal article: submitting this day submits them, too.
    """
    files = connection.execute(
        f"""
        SELECT model, sum(requests), sum(bytes), sum(max_output_tokens)
        FROM batch_request_file LEFT JOIN openai_batch USING (submission_key)
        WHERE collected_at IS NULL AND submission_key IN ({WAITED_FOR})
        GROUP BY model ORDER BY model
        """,
        {"day": day},
    ).fetchall()
    spent = connection.execute(
        """
        SELECT coalesce(sum(cost_usd), 0) FROM completion SEMI JOIN (
            SELECT custom_id FROM batch_request WHERE partition_date = CAST(? AS DATE)
        ) USING (custom_id)
        """,
        [day],
    ).fetchone()
    expected: float | None = 0.0
    calibrated = bool(files)
    for model, requests, file_bytes, max_output_tokens in files:
        rates, measured = batch_rates(model), _measured(connection, model)
        calibrated = calibrated and measured is not None
        tokens_per_byte, output_tokens = measured or (1 / BYTES_PER_TOKEN, max_output_tokens / requests)
        if rates is None or expected is None:
            expected = None
            continue
        expected += file_bytes * tokens_per_byte * rates.input_usd + requests * output_tokens * rates.output_usd
    return Estimate(
        day=day,
        requests=sum(row[1] for row in files),
        spent_usd=spent[0] if spent else 0.0,
        expected_usd=expected,
        model=", ".join(row[0] for row in files),
        is_calibrated=calibrated,
    )


def _measured(connection: duckdb.DuckDBPyConnection, model: str) -> tuple[float, float] | None:
    """(input tokens per byte, output tokens per request) of the model's collected batches; None before the first."""
    row = connection.execute(
        """
        SELECT sum(openai_batch.input_tokens) / sum(bytes), sum(openai_batch.output_tokens) / sum(requests_completed)
        FROM openai_batch JOIN batch_request_file USING (submission_key)
        WHERE model = ? AND status = 'completed' AND requests_completed = requests
            AND openai_batch.input_tokens > 0 AND openai_batch.output_tokens > 0
        """,
        [model],
    ).fetchone()
    return (row[0], row[1]) if row and row[0] is not None else None
