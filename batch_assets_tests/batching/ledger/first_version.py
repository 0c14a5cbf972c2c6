"""A database as version 1 wrote it: its tables, and a row of each kind.

The statements are copies of those of version 1. Its code is not used, so that no later change can alter them.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import openai

MODEL, SYSTEM_PROMPT, LIMIT = "gpt-4.1-nano", "You summarise.", 100
COLLECTED, IN_FLIGHT, CLAIMED, PLANNED, REQUEUED, ADOPTED = (f"2026-10-0{number}" for number in range(1, 7))
NOW = datetime.now(UTC).replace(tzinfo=None)
COLLECTED_BATCH, REFUSED_BATCH = "batch_collected", "batch_refused"

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
    intended_at TIMESTAMP,              -- NULL: it waits for capacity; no run has sent this attempt
    attempt INTEGER NOT NULL DEFAULT 1,
    not_before TIMESTAMP,               -- of a waiting one: the next attempt is not earlier
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
    cancel_requested_at TIMESTAMP,      -- by the user: no run sends its requests again by itself
    remote_deleted_at TIMESTAMP,        -- its files at OpenAI were deleted
    refusal VARCHAR                     -- OpenAI's message, if it refused the submission
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


def body(day: str, article: str) -> str:
    return f"The text of {article} on {day}."


def request(day: str, article: str) -> dict[str, Any]:
    """The line of a request file. Its custom_id depends on all that is sent, including the limit of an answer."""
    messages = [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": f"Title: {article}\n\n{body(day, article)}"},
    ]
    request_body = {"model": MODEL, "messages": messages, "max_completion_tokens": LIMIT}
    text = json.dumps(request_body, ensure_ascii=False, separators=(",", ":"))
    name = hashlib.sha256(f"POST /v1/chat/completions\n{text}".encode()).hexdigest()[:40]
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": request_body}


@dataclass(frozen=True)
class FirstVersionDatabase:
    """Writes a data folder of version 1, and creates its batches at the API."""

    folder: Path
    connection: duckdb.DuckDBPyConnection
    client: openai.OpenAI
    now: datetime = NOW

    def insert(self, table: str, **values: object) -> None:
        columns, places = ", ".join(values), ", ".join("?" * len(values))
        self.connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", list(values.values()))

    def plan(self, day: str, articles: list[str], *, shard: int = 0, is_adopted: bool = False) -> tuple[str, Path]:
        """Articles, requests and a request file; returns the submission's key and the file."""
        lines = [request(day, article) for article in articles]
        for article, line in zip(articles, lines, strict=True):
            self.insert("raw_articles", partition_date=day, article_id=article, title=article, body=body(day, article))
            self.insert("batch_request", partition_date=day, article_id=article, custom_id=line["custom_id"])
        content = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode()
        digest = hashlib.sha256(content).hexdigest()
        key = hashlib.sha256(f"{digest}\n{day}\n1".encode()).hexdigest()
        path = self.folder / "requests" / day / f"round-001-shard-{shard:04d}-{digest[:12]}.jsonl"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        self.insert(
            "batch_request_file",
            partition_date=day, round=1, shard=shard, submission_key=key, path=f"requests/{day}/{path.name}",
            sha256=digest, endpoint="/v1/chat/completions", model=MODEL, requests=len(lines), bytes=len(content),
            estimated_input_tokens=len(content) // 4, max_output_tokens=0 if is_adopted else LIMIT * len(lines),
            max_cost_usd=None, created_at=self.now,
        )  # fmt: skip
        for line in lines:
            self.insert("pending_request", custom_id=line["custom_id"], submission_key=key)
        return key, path

    def send(
        self, day: str, key: str, path: Path, *, attempt: int = 1, without_metadata: bool = False
    ) -> tuple[str, str]:
        """Create a batch as version 1 did, or without metadata as other programs do; returns file id and batch id."""
        with path.open("rb") as file:
            uploaded = self.client.files.create(file=(f"{day}-{key[:12]}.jsonl", file), purpose="batch")
        metadata = {"submission_key": key, "attempt": str(attempt), "partition": day}
        batch = self.client.batches.create(
            input_file_id=uploaded.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata=openai.omit if without_metadata else metadata,
        )
        return uploaded.id, batch.id

    def submission(self, key: str, day: str, **values: object) -> None:
        chosen = {"run_id": "run-of-old", "intended_at": self.now, **values}
        self.insert("openai_batch", submission_key=key, partition_date=day, round=1, shard=0, **chosen)


def make_first_version(database: Path, folder: Path, client: openai.OpenAI) -> dict[str, str]:
    """Write the database and its files; returns the ids of the batches that are at the API, by day."""
    batches: dict[str, str] = {}
    with duckdb.connect(str(database)) as connection:
        connection.execute(TABLES)
        old = FirstVersionDatabase(folder, connection, client)
        _collected_day(old)

        key, path = old.plan(IN_FLIGHT, ["a", "b"])
        file_id, batches[IN_FLIGHT] = old.send(IN_FLIGHT, key, path)
        old.submission(
            key, IN_FLIGHT, file_id=file_id, batch_id=batches[IN_FLIGHT], submitted_at=old.now, status="in_progress"
        )
        key, path = old.plan(CLAIMED, ["a", "b"])
        file_id, batches[CLAIMED] = old.send(CLAIMED, key, path)  # the answer to its creation was lost
        old.submission(key, CLAIMED, file_id=file_id)

        old.plan(PLANNED, ["a", "b"])  # version 1 had no row in the ledger before the claim

        key, path = old.plan(REQUEUED, ["a"])
        file_id = client.files.create(file=(f"{REQUEUED}.jsonl", path.read_bytes()), purpose="batch").id
        old.submission(
            key, REQUEUED, run_id=None, intended_at=None, attempt=2, earlier_batch_ids=[REFUSED_BATCH],
            not_before=old.now - timedelta(minutes=1), file_id=file_id, refusal="token_limit_exceeded: No capacity.",
        )  # fmt: skip
        key, path = old.plan(ADOPTED, ["a"], is_adopted=True)
        file_id, batches[ADOPTED] = old.send(ADOPTED, key, path, without_metadata=True)
        old.submission(
            key,
            ADOPTED,
            run_id=None,
            file_id=file_id,
            batch_id=batches[ADOPTED],
            submitted_at=old.now,
            status="in_progress",
        )
    return batches


def _collected_day(old: FirstVersionDatabase) -> None:
    """Of four requests one is answered, one cut, one refused permanently, one is owed. 30 tokens are in no line."""
    articles = ["answered", "cut", "refused", "owed"]
    key, _ = old.plan(COLLECTED, articles)
    old.connection.execute("DELETE FROM pending_request WHERE submission_key = ?", [key])
    old.submission(
        key, COLLECTED, file_id="file-old", batch_id=COLLECTED_BATCH, submitted_at=old.now, status="completed",
        requests_total=4, requests_completed=2, requests_failed=2, input_tokens=120, output_tokens=130,
        output_file_id="file-out", output_path="results/batch_collected_output.jsonl", seen_at=old.now,
        ended_at=old.now, collected_at=old.now,
    )  # fmt: skip
    names = {article: request(COLLECTED, article)["custom_id"] for article in articles}
    for article, reason, tokens in (("answered", "stop", 20), ("cut", "length", 100)):
        old.insert(
            "completion", custom_id=names[article], text=f"Summary of {article}.", finish_reason=reason, model=MODEL,
            input_tokens=50, cached_input_tokens=0, output_tokens=tokens, reasoning_tokens=0, cost_usd=0.001,
            batch_id=COLLECTED_BATCH, request_id="req-1", completed_at=old.now,
        )  # fmt: skip
    for article, code, retryable in (("refused", "content_refused", False), ("owed", "server_error", True)):
        old.insert(
            "failed_request", custom_id=names[article], batch_id=COLLECTED_BATCH, code=code, message="A message.",
            http_status=500 if retryable else 200, retryable=retryable, failed_at=old.now,
        )  # fmt: skip
    old.insert("quarantined_line", batch_id=COLLECTED_BATCH, path="x", line_number=9, reason="not JSON", line=b"{")
    statuses = {"answered": "summarised", "cut": "summarised", "refused": "failed", "owed": "owed"}
    for article, status in statuses.items():
        old.insert(
            "summaries", partition_date=COLLECTED, article_id=article, title=article, status=status,
            summary=f"Summary of {article}." if status == "summarised" else None, custom_id=names[article],
            batch_id=COLLECTED_BATCH, summarised_at=old.now,
        )  # fmt: skip
