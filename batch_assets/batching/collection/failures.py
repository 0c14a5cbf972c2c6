"""Enters requests without an answer into `failed_request`, each with its reason."""

from collections.abc import Sequence
from typing import NamedTuple

import duckdb

from batch_assets.batching.collection.ended_batches import EndedBatch
from batch_assets.batching.ledger.aliases import record_refused_option
from batch_assets.batching.ledger.database import parsed
from batch_assets.batching.ledger.outcomes import (
    ACCOUNT_PAUSES,
    ACCOUNT_PAUSES_SQL,
    CANCELLED_BY_USER,
    IS_RETRYABLE,
    SCOPE,
    SHARED_REMEDY,
    Scope,
)
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.provider.model_options import OPTIONAL_PARAMETERS
from batch_assets.batching.provider.token_costs import COST_USD_SQL
from batch_assets.batching.safety.secrets import HIDDEN, known_secrets_pattern

REFUSED_OPTION = "refused_option"

# These statements run in this order. They read the temp tables that the other modules of this folder filled:
# `ended_batch` and `refused` (`ended_batches`), `requested` (batch, custom_id: the ledger's `in_flight`), `result_line`
# (`result_lines`), and `outcome` (`load`: custom_id, batch, is_answer, and the rowid `chosen` of the line that counts).

# 1. After a refresh, earlier failures count no longer.
SUPERSEDE_FAILURES = """
    UPDATE failed_request SET superseded = true
    WHERE custom_id IN (SELECT custom_id FROM requested JOIN ended_batch USING (batch) WHERE is_refresh)
"""
# 2. Which batches the API refused an optional parameter for. Either a line that was executed has the refusal, or the
# validation of the whole batch has it: then the API ran none of its requests.
FIND_REFUSED_OPTION = """
    SELECT batch, message, false AS is_of_validation
    FROM result_line WHERE status_code = 400 AND contains(message, $option)
    UNION ALL
    SELECT batch, refused.message, true
    FROM refused JOIN requested USING (custom_id) WHERE contains(refused.message, $option)
    UNION ALL
    SELECT batch, message, true FROM ended_batch WHERE contains(message, $option)
"""
# 3. Whether a request has no answer. If none has, the statements below take longer to plan than all others here.
HAS_FAILURES = "SELECT EXISTS (SELECT 1 FROM outcome WHERE NOT is_answer)"
# 4. Requests without an answer: of a line, and without a line.
FAILED_LINES = f"""
    -- the line that counts for its request, and that is no answer
    CREATE OR REPLACE TEMP VIEW failed_line AS
    SELECT
        batch, custom_id, code, message, status_code AS http_status,
        {IS_RETRYABLE} AS retryable, {SCOPE} AS scope, {SHARED_REMEDY} AS remedy,
        input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens
    FROM result_line WHERE code IS NOT NULL AND rowid IN (SELECT chosen FROM outcome);

    -- a request without a line: OpenAI refused it before it ran any, or the batch ended before
    CREATE OR REPLACE TEMP VIEW missing_line AS
    SELECT
        batch, custom_id, refused.code, refused.message, NULL AS http_status, refused.custom_id IS NULL AS retryable,
        CASE WHEN refused.custom_id IS NULL THEN ended_batch.scope ELSE 'request' END AS scope, NULL AS remedy,
        NULL AS input_tokens, NULL AS cached_input_tokens, NULL AS cache_write_tokens, NULL AS output_tokens,
        NULL AS reasoning_tokens
    FROM outcome JOIN ended_batch USING (batch) LEFT JOIN refused USING (custom_id) WHERE chosen IS NULL;

    -- how often an account error came before: the pause grows with it
    CREATE OR REPLACE TEMP VIEW earlier_account_error AS
    SELECT custom_id, count(*) AS earlier FROM failed_request
    WHERE scope = 'account' AND NOT superseded GROUP BY custom_id;
"""
# 5. An API may repeat the key that it was sent. Without secrets in the environment, $secrets is NULL.
REDACTED = f"""
    CREATE OR REPLACE TEMP MACRO redacted(text, secrets) AS
    coalesce(regexp_replace(text, secrets, '{HIDDEN}', 'gi'), text)
"""
# 6. All of them, with the reason of the batch where they have none of their own.
INSERT_FAILURES = f"""
    INSERT INTO failed_request (
        custom_id, batch_id, code, message, http_status, retryable, superseded, scope, not_before, api,
        max_output_tokens, input_tokens,
        cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_usd, simulated_cost_usd,
        failed_at
    )
    WITH failure AS (SELECT * FROM failed_line UNION ALL SELECT * FROM missing_line),
    redacted_failure AS (
        SELECT
            * REPLACE (
                redacted(code, $secrets::VARCHAR) AS code, redacted(message, $secrets::VARCHAR) AS message
            ),
            coalesce(len(list_filter($options::VARCHAR[], lambda option: contains(message, option))) > 0, false)
                OR (code IS NULL AND list_contains($batches_not_run::INTEGER[], batch)) AS is_refused_option
        FROM failure
    )
    SELECT
        custom_id, batch_id,
        CASE
            WHEN is_refused_option THEN '{REFUSED_OPTION}'
            WHEN retryable AND cancelled_by_user AND redacted_failure.scope <> '{Scope.FILE}' THEN '{CANCELLED_BY_USER}'
            ELSE coalesce(redacted_failure.code, ended_batch.code)
        END,
        CASE
            WHEN redacted_failure.code IS NULL THEN ended_batch.message
            WHEN remedy IS NULL THEN redacted_failure.message
            ELSE concat_ws(' ', redacted_failure.message, remedy)
        END,
        http_status, retryable OR is_refused_option, is_refused_option, redacted_failure.scope,
        CASE WHEN redacted_failure.scope = 'account' THEN
            $now::TIMESTAMP + {ACCOUNT_PAUSES_SQL}[least(coalesce(earlier, 0) + 1, {len(ACCOUNT_PAUSES)})]
        END,
        api, max_output_tokens,
        input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
        CASE WHEN NOT is_simulated THEN {COST_USD_SQL} END, CASE WHEN is_simulated THEN {COST_USD_SQL} END, ended_at
    FROM redacted_failure JOIN ended_batch USING (batch) LEFT JOIN earlier_account_error USING (custom_id)
"""


class Refusal(NamedTuple):
    """A batch, by its number, whose API refused an optional parameter."""

    batch: int
    message: str
    is_of_validation: bool


class RefusedOptions(NamedTuple):
    """The optional parameters that the API refused in these batches, and the numbers of the batches that it did not
    run."""

    options: list[str]
    batches_not_run: list[int]


def load_failures(connection: duckdb.DuckDBPyConnection, batches: Sequence[EndedBatch]) -> None:
    """Insert the requests of `requested` that have no answer, with code and message.

    Reads the temp tables `result_line`, `outcome`, `refused` and `ended_batch`.
    """
    if any(batch.is_refresh for batch in batches):
        connection.execute(SUPERSEDE_FAILURES)
    refused = _record_refused_options(connection, batches)
    if connection.execute(parsed(HAS_FAILURES)).fetchone() == (False,):
        return
    connection.execute(FAILED_LINES)
    connection.execute(REDACTED)
    connection.execute(
        parsed(INSERT_FAILURES), {**refused._asdict(), "secrets": known_secrets_pattern(), "now": now_utc()}
    )


def _record_refused_options(connection: duckdb.DuckDBPyConnection, batches: Sequence[EndedBatch]) -> RefusedOptions:
    """Record the optional parameters that an API refused for a model: no run sends them again, and they cost no round.

    An optional parameter changes the cost, not the question. A request file that was written after the refusal does not
    contain the parameter, so its failures have another cause.
    """
    options: list[str] = []
    not_run: set[int] = set()
    for option in OPTIONAL_PARAMETERS:
        refusals = [
            Refusal(*row) for row in connection.execute(parsed(FIND_REFUSED_OPTION), {"option": option}).fetchall()
        ]
        first_messages = {refusal.batch: refusal.message for refusal in reversed(refusals)}
        newly_refused = {
            number
            for number, message in first_messages.items()
            if _record_refused_option(connection, batches[number], option, message)
        }
        if newly_refused:
            options.append(option)
        not_run |= {refusal.batch for refusal in refusals if refusal.is_of_validation} & newly_refused
    return RefusedOptions(options, sorted(not_run))


def _record_refused_option(connection: duckdb.DuckDBPyConnection, batch: EndedBatch, option: str, message: str) -> bool:
    return record_refused_option(connection, batch.api or "", batch.model, option, message, batch.planned_at)
