"""The tables of this version. A table has the name of the asset that fills it; all times are UTC.

No table has a PRIMARY KEY, a default of a list or an ON CONFLICT clause: DuckLake refuses them, and in DuckDB 2.0 a
PRIMARY KEY makes rewriting a day of a million rows ten times slower. Keys are unique because each run replaces a day as
a whole, in one transaction, and because ids are random.
"""

import uuid
from collections.abc import Mapping

import duckdb

from batch_assets.batching.provider.batches import now_utc

COMPRESSED_TEXT = "VARCHAR USING COMPRESSION zstd"  # half the size, and twice as fast to insert; DuckLake refuses it
# One DDL statement for each table, by its name. {text} is the type of a long text.
TABLES: Mapping[str, str] = {
    "raw_articles": """(
        -- an article of a day; key: source, partition_date, article_id
        partition_date DATE NOT NULL,       -- the day of `published_at`, in UTC, or of the path
        article_id VARCHAR NOT NULL,        -- the source's id, or one made from the text
        title VARCHAR,
        body {text} NOT NULL,               -- the text
        url VARCHAR,
        published_at TIMESTAMP,             -- UTC
        extra MAP(VARCHAR, VARCHAR),        -- further columns of the source that a task uses; NULL: none
        source VARCHAR NOT NULL DEFAULT 'raw_articles'  -- whose rows these are
    )""",
    "rejected_article": """(
        -- a row of the source that cannot be an article, and why
        partition_date DATE,                -- NULL: it belongs to no day; recorded once for each file
        source_row BIGINT,                  -- its place among the rows of its file, from 1; NULL: it could not be read
        article_id VARCHAR,
        title VARCHAR,
        body VARCHAR,                       -- of a malformed row its line, of an undated row NULL
        url VARCHAR,
        reason VARCHAR NOT NULL,            -- empty_body, duplicate_id, older_version, not_text; malformed, undated
        source_file VARCHAR,                -- NULL: of a query without `filename`, or of a table
        source_line BIGINT,                 -- its first line, from 1; NULL where rows are not lines, as in Parquet
        message VARCHAR,                    -- what is wrong with a malformed row
        source VARCHAR NOT NULL DEFAULT 'raw_articles'
    )""",
    "batch_request": """(
        -- the request that a task needs for an article; key: task, partition_date, article_id. Equal requests of
        -- articles, days and tasks share a custom_id
        partition_date DATE NOT NULL,
        article_id VARCHAR NOT NULL,
        custom_id VARCHAR NOT NULL,
        task VARCHAR NOT NULL DEFAULT 'summaries',
        step INTEGER NOT NULL DEFAULT 0     -- of the task: later ones ask what the earlier ones could not answer
    )""",
    "day_plan": """(
        -- what the task asked in the day's last plan; key: task, partition_date. The next round asks the same
        partition_date DATE NOT NULL,
        definition JSON NOT NULL,
        planned_at TIMESTAMP NOT NULL,
        planned_by VARCHAR,                 -- the run, or the first run that it retries
        task VARCHAR NOT NULL DEFAULT 'summaries',
        source VARCHAR NOT NULL DEFAULT 'raw_articles'  -- whose articles it reads
    )""",
    "batch_request_file": """(
        -- a JSONL file of requests; key: submission_id
        submission_id VARCHAR NOT NULL,     -- random; the file has this name
        partition_date DATE NOT NULL,       -- the day whose run has written it, in UTC
        plan INTEGER NOT NULL,              -- counts the plans of the day that wrote files; 0: an adopted batch
        round INTEGER NOT NULL,             -- 1 + how often one of its requests has ended without an answer
        shard INTEGER NOT NULL,
        path VARCHAR NOT NULL,              -- relative to the data folder
        sha256 VARCHAR NOT NULL,
        endpoint VARCHAR NOT NULL,
        model VARCHAR NOT NULL,
        requests BIGINT NOT NULL,
        bytes BIGINT NOT NULL,
        estimated_input_tokens BIGINT NOT NULL,
        request_max_output_tokens BIGINT,   -- the limit of one request; NULL where it is not known
        max_output_tokens BIGINT NOT NULL,  -- of all its requests together
        max_cost_usd DOUBLE,                -- an upper estimate; NULL where the model's price is not known
        is_refresh BOOLEAN NOT NULL,        -- its answers replace the present ones
        output_schema JSON,                 -- that an answer must fulfil; NULL: an answer is any text
        created_at TIMESTAMP NOT NULL,
        task VARCHAR NOT NULL DEFAULT 'summaries',
        vector_length BIGINT,               -- how many numbers an answer has; NULL: not known, or no vector
        step INTEGER NOT NULL DEFAULT 0     -- of the task
    )""",
    "in_flight_request": """(
        -- a request in a file whose batch is not collected yet; it is in flight while the submission's state is open
        custom_id VARCHAR NOT NULL,
        submission_id VARCHAR NOT NULL
    )""",
    "openai_batch": """(
        -- a submission, with all that the API returned for its batch; key: submission_id. Rows are never deleted
        submission_id VARCHAR NOT NULL,
        partition_date DATE NOT NULL,
        plan INTEGER NOT NULL,
        round INTEGER NOT NULL,
        shard INTEGER NOT NULL,
        state VARCHAR NOT NULL,             -- see states.py
        attempt INTEGER NOT NULL,           -- counts the batches that were created from this file
        owner_run VARCHAR,                  -- the run that submits, or submitted
        claim_token VARCHAR,                -- in the metadata of its batch; each claim has its own
        earlier_claim_tokens VARCHAR[],
        api VARCHAR,                        -- to which it was sent; NULL: not sent yet, or an earlier version sent it
        organization VARCHAR,               -- of the account, as the API names it
        key_fingerprint VARCHAR,            -- of the key that was used
        claimed_at TIMESTAMP,               -- by the API's clock, if it returns the time
        not_before TIMESTAMP,               -- of a deferred one: the next attempt is not earlier
        deferred_by VARCHAR,                -- of a deferred one: whose failure it was, batch (capacity) or account
        refusal_code VARCHAR,               -- of a deferred one: the API's code
        expected_cost_usd DOUBLE,           -- what a budget reserves for it, as expected at the claim; NULL: the price
                                            -- was not known or no run claimed it, so each check computes it
        file_id VARCHAR,
        batch_id VARCHAR,
        earlier_batch_ids VARCHAR[],        -- of attempts that failed as a whole
        submitted_at TIMESTAMP,
        status VARCHAR,                     -- of the batch, as the API last returned it
        requests_total BIGINT,
        requests_completed BIGINT,
        requests_failed BIGINT,
        input_tokens BIGINT,                -- the batch's own usage
        cached_input_tokens BIGINT,
        output_tokens BIGINT,
        reasoning_tokens BIGINT,
        errors JSON,                        -- code, message, line, param
        output_file_id VARCHAR,
        error_file_id VARCHAR,
        output_path VARCHAR,                -- where the result files were stored, byte for byte
        error_path VARCHAR,
        in_progress_at TIMESTAMP,           -- when the API began to run its requests
        seen_at TIMESTAMP,
        missing_since TIMESTAMP,
        ended_at TIMESTAMP,
        collected_at TIMESTAMP,
        cancel_requested_at TIMESTAMP,      -- by the user: no run sends its requests until the user plans the day again
        remote_deleted_at TIMESTAMP,        -- its files at the API were deleted
        message VARCHAR,                    -- the API's last message about it
        task VARCHAR NOT NULL DEFAULT 'summaries'
    )""",
    "submission_event": """(
        -- a change of a submission's state
        submission_id VARCHAR NOT NULL,
        moved_at TIMESTAMP NOT NULL,
        run_id VARCHAR,
        move VARCHAR NOT NULL,
        from_state VARCHAR,
        to_state VARCHAR NOT NULL,
        batch_id VARCHAR,
        message VARCHAR
    )""",
    "completion": """(
        -- an answered request; key: custom_id
        custom_id VARCHAR NOT NULL,
        text {text} NOT NULL,
        finish_reason VARCHAR,
        model VARCHAR,
        api VARCHAR,                        -- that answered; NULL: an earlier version did not record it
        max_output_tokens BIGINT,           -- the limit that was in force
        input_tokens BIGINT,                -- cached and cache-written ones are part of them
        cached_input_tokens BIGINT,
        cache_write_tokens BIGINT,
        output_tokens BIGINT,               -- reasoning tokens are part of them
        reasoning_tokens BIGINT,
        cost_usd DOUBLE,                    -- at the price that was billed; NULL where it is not known
        simulated_cost_usd DOUBLE,          -- of an answer of the built-in engine, instead: it bills nothing
        batch_id VARCHAR NOT NULL,          -- of a synchronous call: 'synchronous/' and its call_id
        request_id VARCHAR,
        completed_at TIMESTAMP NOT NULL,
        vector FLOAT[]                      -- of an embeddings endpoint, in place of the text
    )""",
    "failed_request": """(
        -- a request that ended without an answer; key: custom_id, batch_id
        custom_id VARCHAR NOT NULL,
        batch_id VARCHAR NOT NULL,
        code VARCHAR NOT NULL,
        message VARCHAR,
        http_status INTEGER,
        retryable BOOLEAN NOT NULL,
        superseded BOOLEAN NOT NULL,        -- a refresh has sent the request again: this failure does not count
        scope VARCHAR,                      -- whose failure: request (it costs a round), batch, account, task, file
        not_before TIMESTAMP,               -- after an account error: no run of the sensor sends it again before
        api VARCHAR,
        max_output_tokens BIGINT,
        input_tokens BIGINT,
        cached_input_tokens BIGINT,
        cache_write_tokens BIGINT,
        output_tokens BIGINT,
        reasoning_tokens BIGINT,
        cost_usd DOUBLE,
        simulated_cost_usd DOUBLE,
        failed_at TIMESTAMP NOT NULL
    )""",
    "synchronous_call": """(
        -- a request that was asked outside of a batch, once; key: call_id. Rows are never deleted
        call_id VARCHAR NOT NULL,
        custom_id VARCHAR NOT NULL,
        task VARCHAR NOT NULL,
        partition_date DATE NOT NULL,
        state VARCHAR NOT NULL,             -- sent, answered, refused, possibly_billed: see synchronous_calls.py
        caller VARCHAR NOT NULL,            -- the process that waits for the answer
        api VARCHAR NOT NULL,
        endpoint VARCHAR NOT NULL,
        model VARCHAR NOT NULL,
        called_at TIMESTAMP NOT NULL,       -- by the API's clock, if it returns the time
        sent_at TIMESTAMP NOT NULL,         -- the same by ours
        ended_at TIMESTAMP,
        estimated_input_tokens BIGINT NOT NULL,
        max_output_tokens BIGINT NOT NULL,
        max_cost_usd DOUBLE,                -- an upper estimate at the standard price, which a budget reserves while
                                            -- it is sent or possibly billed; NULL where the price is not known
        output_schema JSON,                 -- that an answer must fulfil; NULL: an answer is any text
        vector_length BIGINT,               -- how many numbers an answer has; NULL: not known, or no vector
        path VARCHAR,                       -- where the answer is stored; relative to the data folder
        http_status INTEGER,
        code VARCHAR,                       -- why it was refused
        message VARCHAR
    )""",
    "quarantined_line": """(
        -- a line of a result file that could not be used, or the file as a whole
        batch_id VARCHAR NOT NULL,
        path VARCHAR NOT NULL,              -- empty: the API no longer has the file
        line_number BIGINT NOT NULL,        -- from 1; 0: the file as a whole, of which `line` has the beginning
        reason VARCHAR NOT NULL,
        line BLOB NOT NULL
    )""",
    "spending": """(
        -- what a batch or a synchronous call billed, for the day and task that sent it; rows are only added
        batch_id VARCHAR NOT NULL,
        submission_id VARCHAR NOT NULL,     -- or the call_id
        partition_date DATE NOT NULL,
        task VARCHAR NOT NULL,
        kind VARCHAR NOT NULL,              -- answered, failed, unattributed: it belongs to no request (see billing.py)
        api VARCHAR,
        model VARCHAR NOT NULL,
        submitted_at TIMESTAMP NOT NULL,    -- a budget's month is that of the submission
        requests BIGINT NOT NULL,
        billed_requests BIGINT,             -- those whose lines have a usage; NULL: recorded by an earlier version
        cut_requests BIGINT,                -- of these, how many ended at their limit on output
        input_tokens BIGINT NOT NULL,
        cached_input_tokens BIGINT NOT NULL,
        cache_write_tokens BIGINT NOT NULL,
        output_tokens BIGINT NOT NULL,
        reasoning_tokens BIGINT NOT NULL,
        cost_usd DOUBLE,                    -- NULL where the model's price is not known, or nothing was billed
        simulated_cost_usd DOUBLE,          -- of the built-in engine
        recorded_at TIMESTAMP NOT NULL
    )""",
    "request_alias": """(
        -- the custom_id that an earlier version gave to a request
        old VARCHAR NOT NULL,
        new VARCHAR NOT NULL
    )""",
    "day_of_old_names": """(
        -- a day that only a version with other custom_ids has planned
        partition_date DATE NOT NULL
    )""",
    "refused_option": """(
        -- a parameter that the API refused for the model: later request files do not have it
        api VARCHAR NOT NULL,
        model VARCHAR NOT NULL,
        option VARCHAR NOT NULL,
        message VARCHAR,
        refused_at TIMESTAMP NOT NULL
    )""",
    "pruned_day": """(
        -- a day whose old articles and requests `prune` deleted: its results stay as they are
        partition_date DATE NOT NULL,
        source VARCHAR NOT NULL DEFAULT 'raw_articles'
    )""",
    "summaries": """(
        -- what users read: one row per article of a day, with its answer; key: partition_date, article_id
        partition_date DATE NOT NULL,       -- the day, in UTC
        article_id VARCHAR NOT NULL,        -- the source's id, or one made from the text
        title VARCHAR,                      -- of the article
        url VARCHAR,                        -- of the article
        published_at TIMESTAMP,             -- UTC
        summary {text},
        status VARCHAR NOT NULL,            -- answered, in_flight, pending, blocked, failed, cancelled
        error_code VARCHAR,                 -- why there is no answer, in one word
        error_message VARCHAR,              -- the same in words, of the API or of the run
        finish_reason VARCHAR,              -- length: the answer was cut at max_output_tokens
        model VARCHAR,                      -- that answered
        api VARCHAR,                        -- that answered
        input_tokens BIGINT,                -- of the request, which equal articles share
        output_tokens BIGINT,               -- of the request; reasoning tokens are part of them
        cost_usd DOUBLE,                    -- of the request, which equal articles share
        custom_id VARCHAR,                  -- of the request: a hash of its content
        batch_id VARCHAR,                   -- that has the answer
        answered_at TIMESTAMP,              -- UTC
        task_version VARCHAR                -- of what the task asked: see `Task.version`
    )""",
    "warehouse": """(
        -- one row: the identity of this database, which the metadata of its batches has
        id VARCHAR NOT NULL,
        created_at TIMESTAMP NOT NULL
    )""",
    "schema_version": """(
        -- the migrations that were applied
        name VARCHAR NOT NULL,
        applied_at TIMESTAMP NOT NULL
    )""",
}


def create_table(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    connection.execute(f"CREATE TABLE {name} " + TABLES[name].format(text=COMPRESSED_TEXT))


def create_warehouse_id(connection: duckdb.DuckDBPyConnection) -> None:
    """Give the database an identity of its own."""
    connection.execute("DELETE FROM warehouse")
    connection.execute("INSERT INTO warehouse (id, created_at) VALUES (?, ?)", [uuid.uuid4().hex, now_utc()])


def read_warehouse_id(connection: duckdb.DuckDBPyConnection) -> str:
    row = connection.execute("SELECT id FROM warehouse").fetchone()
    assert row is not None, "a database with these tables has an identity"
    return str(row[0])
