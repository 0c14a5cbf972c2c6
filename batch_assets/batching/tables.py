"""The tables. A table bears the name of the asset that fills it; all times are UTC.

Big tables have no PRIMARY KEY: in DuckDB 2.0 it makes rewriting a day of a million rows ten times slower.
Their keys hold because each day is replaced as a whole, in one transaction.
"""

import duckdb

TABLES = """
-- an article of a day; key: partition_date, article_id
CREATE TABLE IF NOT EXISTS raw_articles (
    partition_date DATE NOT NULL,
    article_id VARCHAR NOT NULL,
    title VARCHAR,
    body VARCHAR NOT NULL USING COMPRESSION zstd,
    url VARCHAR,
    published_at TIMESTAMP
);

-- a row of the source that cannot be an article, and why
CREATE TABLE IF NOT EXISTS rejected_article (
    partition_date DATE NOT NULL,
    source_row BIGINT NOT NULL,     -- its place among the day's rows, from 1
    article_id VARCHAR,
    title VARCHAR,
    body VARCHAR,
    url VARCHAR,
    reason VARCHAR NOT NULL         -- empty_body, duplicate_id
);

-- the request that an article needs; key: partition_date, article_id. Equal articles share a custom_id
CREATE TABLE IF NOT EXISTS batch_request (
    partition_date DATE NOT NULL,
    article_id VARCHAR NOT NULL,
    custom_id VARCHAR NOT NULL
);

-- the task that the day was last planned with; key: partition_date. Another round asks the same
CREATE TABLE IF NOT EXISTS day_plan (
    partition_date DATE NOT NULL,
    task JSON NOT NULL,
    planned_at TIMESTAMP NOT NULL
);

-- a JSONL file of requests; key: partition_date, round, shard
CREATE TABLE IF NOT EXISTS batch_request_file (
    partition_date DATE NOT NULL,
    round INTEGER NOT NULL,
    shard INTEGER NOT NULL,
    submission_key VARCHAR NOT NULL,
    path VARCHAR NOT NULL,
    sha256 VARCHAR NOT NULL,
    endpoint VARCHAR NOT NULL,
    model VARCHAR NOT NULL,
    requests BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    estimated_input_tokens BIGINT NOT NULL,
    max_output_tokens BIGINT NOT NULL,  -- of all its requests together
    max_cost_usd DOUBLE,                -- an upper estimate; NULL where the model's price is not known
    created_at TIMESTAMP NOT NULL
);

-- a request that sits in a request file whose batch is not collected yet: it is not to be sent again
CREATE TABLE IF NOT EXISTS pending_request (
    custom_id VARCHAR NOT NULL,
    submission_key VARCHAR NOT NULL
);

-- the ledger: a submission, from the intent on, and all that is known of its batch
CREATE TABLE IF NOT EXISTS openai_batch (
    submission_key VARCHAR PRIMARY KEY,
    partition_date DATE NOT NULL,
    round INTEGER NOT NULL,
    shard INTEGER NOT NULL,
    run_id VARCHAR,                     -- the run that submits, or submitted
    intended_at TIMESTAMP,              -- NULL: waits, for room in a limit; nothing of this attempt was sent
    attempt INTEGER NOT NULL DEFAULT 1,
    not_before TIMESTAMP,               -- of a waiting one: no use in trying earlier
    earlier_batch_ids VARCHAR[] NOT NULL DEFAULT [],  -- of attempts that OpenAI refused as a whole
    file_id VARCHAR,
    batch_id VARCHAR,
    submitted_at TIMESTAMP,
    status VARCHAR,                     -- OpenAI's word, as last seen
    requests_total BIGINT,
    requests_completed BIGINT,
    requests_failed BIGINT,
    input_tokens BIGINT,                -- the batch's own usage
    output_tokens BIGINT,
    errors JSON,                        -- code, message, line, param
    output_file_id VARCHAR,
    error_file_id VARCHAR,
    output_path VARCHAR,                -- where the result files were stored, byte for byte
    error_path VARCHAR,
    seen_at TIMESTAMP,
    ended_at TIMESTAMP,
    collected_at TIMESTAMP,             -- its results are in the tables
    cancel_requested_at TIMESTAMP,      -- somebody wants it to stop, and none of it to go out again by itself
    remote_deleted_at TIMESTAMP,        -- its files at OpenAI were deleted
    refusal VARCHAR                     -- what OpenAI said when it would not take the submission
);

-- an answered request; key: custom_id
CREATE TABLE IF NOT EXISTS completion (
    custom_id VARCHAR NOT NULL,
    text VARCHAR NOT NULL USING COMPRESSION zstd,
    finish_reason VARCHAR,
    model VARCHAR,
    input_tokens BIGINT,
    cached_input_tokens BIGINT,
    output_tokens BIGINT,
    reasoning_tokens BIGINT,
    cost_usd DOUBLE,                    -- at batch prices; NULL where the model's price is not known
    batch_id VARCHAR NOT NULL,
    request_id VARCHAR,
    completed_at TIMESTAMP NOT NULL
);

-- a request that came back without an answer; key: custom_id, batch_id
CREATE TABLE IF NOT EXISTS failed_request (
    custom_id VARCHAR NOT NULL,
    batch_id VARCHAR NOT NULL,
    code VARCHAR NOT NULL,
    message VARCHAR,
    http_status INTEGER,
    retryable BOOLEAN NOT NULL,
    failed_at TIMESTAMP NOT NULL
);

-- a line of a result file that could not be used
CREATE TABLE IF NOT EXISTS quarantined_line (
    batch_id VARCHAR NOT NULL,
    path VARCHAR NOT NULL,
    line_number BIGINT NOT NULL,
    reason VARCHAR NOT NULL,
    line BLOB NOT NULL
);

-- a day whose articles and requests were deleted since they were old: its summaries stay as they are
CREATE TABLE IF NOT EXISTS pruned_day (
    partition_date DATE NOT NULL
);

-- what users read: one row per article of a day; key: partition_date, article_id
CREATE TABLE IF NOT EXISTS summaries (
    partition_date DATE NOT NULL,
    article_id VARCHAR NOT NULL,
    title VARCHAR,
    url VARCHAR,
    published_at TIMESTAMP,
    summary VARCHAR USING COMPRESSION zstd,
    status VARCHAR NOT NULL,            -- summarised, in_flight, owed, failed, cancelled
    error_code VARCHAR,
    error_message VARCHAR,
    finish_reason VARCHAR,              -- length: the summary was cut at max_output_tokens
    model VARCHAR,
    input_tokens BIGINT,
    output_tokens BIGINT,
    cost_usd DOUBLE,                    -- of the request, which equal articles share
    custom_id VARCHAR,
    batch_id VARCHAR,
    summarised_at TIMESTAMP
);
"""


def create_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Create what is missing; leave what exists."""
    connection.execute(TABLES)
