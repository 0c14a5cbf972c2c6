"""Named migrations: each upgrades a database of an earlier version in one transaction, without loss."""

from collections.abc import Callable, Mapping

import duckdb

from batch_assets.batching.ledger.outcomes import CANCELLED_BATCH_ID_PREFIX
from batch_assets.batching.ledger.schema import TABLES, create_table, create_warehouse_id
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.provider.prices import batch_rates
from batch_assets.batching.task_day import FIRST_SOURCE, FIRST_TASK

# How rows of version 1 become rows of this version. Each table that is not here stays as it is, or is new and empty.
# NAME_before is the table of version 1.
FROM_V1: Mapping[str, str] = {
    "batch_request_file": """
        INSERT INTO batch_request_file (
            submission_id, task, partition_date, plan, round, shard, path, sha256, endpoint, model, requests, bytes,
            estimated_input_tokens, request_max_output_tokens, max_output_tokens, max_cost_usd, is_refresh, created_at
        )
        SELECT submission_key, 'summaries', partition_date, round, greatest(round, 1), shard, path, sha256, endpoint,
            model, requests, bytes, estimated_input_tokens,
            CASE WHEN max_output_tokens > 0 AND requests > 0 THEN max_output_tokens // requests END,
            max_output_tokens, max_cost_usd, false, created_at
        FROM batch_request_file_before
    """,
    "in_flight_request": """
        INSERT INTO in_flight_request (custom_id, submission_id)
        SELECT custom_id, submission_key FROM pending_request
    """,
    # The metadata of its batches has the key and the number of the attempt: together, they are the claim token.
    "openai_batch": """
        INSERT INTO openai_batch (
            submission_id, task, partition_date, plan, round, shard, state, attempt, owner_run, claim_token, claimed_at,
            not_before, file_id, batch_id, earlier_batch_ids, submitted_at, status, requests_total, requests_completed,
            requests_failed, input_tokens, output_tokens, errors, output_file_id, error_file_id, output_path,
            error_path, seen_at, ended_at, collected_at, cancel_requested_at, remote_deleted_at, message
        )
        SELECT
            file.submission_key, 'summaries', file.partition_date, file.round, greatest(file.round, 1), file.shard,
            CASE
                WHEN collected_at IS NOT NULL THEN 'collected'
                WHEN batch_id IS NOT NULL THEN 'submitted'
                WHEN intended_at IS NOT NULL THEN 'claimed'
                WHEN attempt > 1 OR not_before IS NOT NULL THEN 'deferred'
                ELSE 'planned'
            END,
            coalesce(attempt, 1), run_id, file.submission_key || '/' || coalesce(attempt, 1), intended_at, not_before,
            file_id, batch_id, earlier_batch_ids, submitted_at, status, requests_total, requests_completed,
            requests_failed, input_tokens, output_tokens, errors, output_file_id, error_file_id, output_path,
            error_path, seen_at, ended_at, collected_at, cancel_requested_at, remote_deleted_at, refusal
        FROM batch_request_file_before AS file LEFT JOIN openai_batch_before USING (submission_key)
    """,
    "submission_event": """
        INSERT INTO submission_event (submission_id, moved_at, run_id, move, from_state, to_state, batch_id, message)
        SELECT submission_id, $now, NULL, 'migrate', NULL, state, batch_id, NULL FROM openai_batch
    """,
    "completion": """
        INSERT INTO completion (
            custom_id, text, finish_reason, model, max_output_tokens, input_tokens, cached_input_tokens, output_tokens,
            reasoning_tokens, cost_usd, batch_id, request_id, completed_at
        )
        SELECT custom_id, text, finish_reason, completion_before.model, request_max_output_tokens,
            completion_before.input_tokens, completion_before.cached_input_tokens, completion_before.output_tokens,
            completion_before.reasoning_tokens, cost_usd, batch_id, request_id, completed_at
        FROM completion_before LEFT JOIN (
            SELECT batch_id, any_value(request_max_output_tokens) AS request_max_output_tokens
            FROM openai_batch JOIN batch_request_file USING (submission_id) GROUP BY batch_id
        ) USING (batch_id)
    """,
    "failed_request": """
        INSERT INTO failed_request (
            custom_id, batch_id, code, message, http_status, retryable, superseded, max_output_tokens, failed_at
        )
        SELECT custom_id, batch_id, code, message, http_status, retryable, false, request_max_output_tokens, failed_at
        FROM failed_request_before LEFT JOIN (
            SELECT batch_id, any_value(request_max_output_tokens) AS request_max_output_tokens
            FROM openai_batch JOIN batch_request_file USING (submission_id) GROUP BY batch_id
        ) USING (batch_id)
    """,
    "summaries": """
        INSERT INTO summaries (
            partition_date, article_id, title, url, published_at, summary, status, error_code, error_message,
            finish_reason, model, input_tokens, output_tokens, cost_usd, custom_id, batch_id, answered_at
        )
        SELECT
            partition_date, article_id, title, url, published_at, summary,
            CASE status WHEN 'summarised' THEN 'answered' WHEN 'owed' THEN 'pending' ELSE status END, error_code,
            error_message, finish_reason, model, input_tokens, output_tokens, cost_usd, custom_id, batch_id,
            summarised_at
        FROM summaries_before
    """,
    # What each collected batch billed: its answers, and the usage that it reported beyond them. Version 1 knew the
    # prices of OpenAI's models only, whichever API answered.
    "spending": """
        INSERT INTO spending (
            batch_id, submission_id, partition_date, task, kind, api, model, submitted_at, requests, input_tokens,
            cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_usd, recorded_at
        )
        WITH answered AS (
            SELECT
                batch_id, count(*) AS requests, coalesce(sum(input_tokens), 0) AS input_tokens,
                coalesce(sum(cached_input_tokens), 0) AS cached_input_tokens,
                coalesce(sum(output_tokens), 0) AS output_tokens,
                coalesce(sum(reasoning_tokens), 0) AS reasoning_tokens, sum(cost_usd) AS cost_usd
            FROM completion GROUP BY batch_id
        ),
        batch AS (
            SELECT
                openai_batch.batch_id, submission_id, openai_batch.partition_date, model,
                coalesce(submitted_at, claimed_at, collected_at) AS submitted_at,
                openai_batch.input_tokens AS batch_input_tokens, openai_batch.output_tokens AS batch_output_tokens,
                answered.* EXCLUDE (batch_id)
            FROM openai_batch JOIN batch_request_file USING (submission_id)
            LEFT JOIN answered ON answered.batch_id = openai_batch.batch_id
            WHERE state = 'collected'
        )
        SELECT
            batch_id, submission_id, partition_date, 'summaries', 'answered', NULL, model, submitted_at, requests,
            input_tokens, cached_input_tokens, 0, output_tokens, reasoning_tokens, cost_usd, $now
        FROM batch WHERE requests > 0
        UNION ALL
        SELECT
            batch_id, submission_id, partition_date, 'summaries', 'unattributed', NULL, model, submitted_at, 0,
            greatest(coalesce(batch_input_tokens, 0) - coalesce(input_tokens, 0), 0) AS more_input, 0, 0,
            greatest(coalesce(batch_output_tokens, 0) - coalesce(output_tokens, 0), 0) AS more_output, 0,
            more_input * input_usd + more_output * output_usd, $now
        FROM batch LEFT JOIN price_of_model USING (model) WHERE more_input + more_output > 0
    """,
    "day_of_old_names": """
        INSERT INTO day_of_old_names (partition_date) SELECT DISTINCT partition_date FROM batch_request
    """,
}
TABLES_OF_A_TASK = ("batch_request", "day_plan", "batch_request_file", "openai_batch")
TABLES_OF_A_SOURCE = ("raw_articles", "rejected_article", "pruned_day", "day_plan")
TABLES_OF_V1_ONLY = ("pending_request",)


def keep_states_identities_and_spending(connection: duckdb.DuckDBPyConnection) -> None:
    """From version 1, whose ledger had no states, to states, identities and a record of spending."""
    found = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = current_database()")
    before = {name for (name,) in found.fetchall()}
    for name in FROM_V1:
        if name in before:
            connection.execute(f"ALTER TABLE {name} RENAME TO {name}_before")
    for name in TABLES:
        if name in FROM_V1 or name not in before | {"schema_version"}:
            create_table(connection, name)
    create_warehouse_id(connection)
    _create_prices(connection)
    for statement in FROM_V1.values():
        connection.execute(statement, {"now": now_utc()} if "$now" in statement else None)
    for name in FROM_V1:
        if name in before:
            connection.execute(f"DROP TABLE {name}_before")
    for name in TABLES_OF_V1_ONLY:
        connection.execute(f"DROP TABLE {name}")


def _create_prices(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the temp table `price_of_model`: USD per token of the models in request files whose price is known."""
    connection.execute("CREATE OR REPLACE TEMP TABLE price_of_model (model TEXT, input_usd DOUBLE, output_usd DOUBLE)")
    for (model,) in connection.execute("SELECT DISTINCT model FROM batch_request_file_before").fetchall():
        rates = batch_rates(model)
        if rates is not None:
            connection.execute(
                "INSERT INTO price_of_model (model, input_usd, output_usd) VALUES (?, ?, ?)",
                [model, rates.input_usd, rates.output_usd],
            )


def record_whose_failure_it_is(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the columns by which account errors cost no round. Earlier failures keep costing one."""
    connection.execute("ALTER TABLE failed_request ADD COLUMN IF NOT EXISTS scope VARCHAR")
    connection.execute("ALTER TABLE failed_request ADD COLUMN IF NOT EXISTS not_before TIMESTAMP")


def record_why_a_submission_waits(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the columns by which a request is blocked while its submission waits after an account error."""
    connection.execute("ALTER TABLE openai_batch ADD COLUMN IF NOT EXISTS deferred_by VARCHAR")
    connection.execute("ALTER TABLE openai_batch ADD COLUMN IF NOT EXISTS refusal_code VARCHAR")


def record_where_a_rejected_row_is(connection: duckdb.DuckDBPyConnection) -> None:
    """Add file, line and message of a rejected row, and allow rows that belong to no day."""
    for column in ("partition_date", "source_row"):
        connection.execute(f"ALTER TABLE rejected_article ALTER COLUMN {column} DROP NOT NULL")
    for column in ("source_file VARCHAR", "source_line BIGINT", "message VARCHAR"):
        connection.execute(f"ALTER TABLE rejected_article ADD COLUMN IF NOT EXISTS {column}")


def record_which_run_planned(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the run of a day's last plan, by which the retry of a killed run knows what it has planned already."""
    connection.execute("ALTER TABLE day_plan ADD COLUMN IF NOT EXISTS planned_by VARCHAR")


def _columns(connection: duckdb.DuckDBPyConnection, table: str) -> set[str]:
    found = connection.execute(
        "SELECT column_name FROM duckdb_columns() WHERE database_name = current_database() AND table_name = ?", [table]
    )
    return {name for (name,) in found.fetchall()}


def record_the_task(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the task and the source to each table that has them. Until now, all rows were of one task and one source."""
    if "definition" not in _columns(connection, "day_plan"):
        connection.execute("ALTER TABLE day_plan RENAME COLUMN task TO definition")
    for table in TABLES_OF_A_TASK:
        connection.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS task VARCHAR DEFAULT '{FIRST_TASK}'")
    connection.execute("ALTER TABLE raw_articles ADD COLUMN IF NOT EXISTS extra MAP(VARCHAR, VARCHAR)")
    for table in TABLES_OF_A_SOURCE:
        connection.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS source VARCHAR DEFAULT '{FIRST_SOURCE}'")
    connection.execute("ALTER TABLE batch_request_file ADD COLUMN IF NOT EXISTS output_schema JSON")
    connection.execute("ALTER TABLE summaries ADD COLUMN IF NOT EXISTS task_version VARCHAR")
    connection.execute(
        "UPDATE failed_request SET batch_id = ? || substr(batch_id, ?) WHERE starts_with(batch_id, ?)",
        [
            f"{CANCELLED_BATCH_ID_PREFIX}{FIRST_TASK}/",
            len(CANCELLED_BATCH_ID_PREFIX) + 1,
            CANCELLED_BATCH_ID_PREFIX,
        ],
    )


def record_vectors(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the columns for answers of an embeddings endpoint."""
    connection.execute("ALTER TABLE batch_request_file ADD COLUMN IF NOT EXISTS vector_length BIGINT")
    connection.execute("ALTER TABLE completion ADD COLUMN IF NOT EXISTS vector FLOAT[]")


def record_steps(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the step of the task. Until now, a task had one."""
    for table in ("batch_request", "batch_request_file"):
        connection.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS step INTEGER DEFAULT 0")


def record_synchronous_calls(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the table of the requests that are asked outside of batches."""
    if not _columns(connection, "synchronous_call"):
        create_table(connection, "synchronous_call")


def record_when_a_batch_began(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the time at which the API began to run a batch. Of earlier batches, it is not known."""
    connection.execute("ALTER TABLE openai_batch ADD COLUMN IF NOT EXISTS in_progress_at TIMESTAMP")


MIGRATIONS: Mapping[str, Callable[[duckdb.DuckDBPyConnection], None]] = {
    "keep_states_identities_and_spending": keep_states_identities_and_spending,
    "record_whose_failure_it_is": record_whose_failure_it_is,
    "record_why_a_submission_waits": record_why_a_submission_waits,
    "record_where_a_rejected_row_is": record_where_a_rejected_row_is,
    "record_which_run_planned": record_which_run_planned,
    "record_the_task": record_the_task,
    "record_vectors": record_vectors,
    "record_steps": record_steps,
    "record_synchronous_calls": record_synchronous_calls,
    "record_when_a_batch_began": record_when_a_batch_began,
}
