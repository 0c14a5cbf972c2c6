"""Articles and results that look like the real ones, made by DuckDB in seconds."""

from collections.abc import Sequence
from pathlib import Path

import duckdb

from batch_assets.batching.ledger.database import Database
from batch_assets.batching.planning.task import Task
from batch_assets.task_set import result_table

DAY = "2026-01-05"
TASK = Task("gpt-6-luna")
RESULTS = result_table(TASK)
NO_LIMIT = "80%"  # DuckDB's default
WORDS = (
    "the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which "
    "one you were all her she there would their we him been has when who will no more if out so said what up its about "
    "into than them can only other new some could time these two may then do first any my now such like our over man "
    "me even most made after also did many before must through back years where much your way well down should because "
    "each just those people how too little state good very make world still own see men work long get here between "
    "both life being under never day same another know while last might us great old year off come since against go "
    "came right used take three government minister market quarter percent workers energy climate research hospital "
    "election harbour railway drought parliament agreement company shareholders committee budget transfer airport "
    "São Zürich façade naïve Ångström Πειραιάς Москва 東京 القاهرة crème œuvre résumé “quoted” it’s — … € 25% 3.14 №"
)

# Each article is put together from fragments, five to nine words each, in an order of its own.
MAKE_ARTICLES = """
    CREATE OR REPLACE TEMP TABLE fragment AS
    SELECT list(text ORDER BY number) AS texts FROM (
        SELECT number, array_to_string(
            list_transform(range(5 + number % 5), lambda k: words[1 + (hash(number, k) % len(words))::BIGINT]), ' '
        ) || CASE number % 11
            WHEN 0 THEN '.' || chr(10) || chr(10)
            WHEN 1 THEN ', "so they say", '
            WHEN 2 THEN '. ' WHEN 3 THEN '. ' WHEN 4 THEN ', ' WHEN 5 THEN '? '
            ELSE ' '
        END AS text
        FROM range(20000) AS numbers(number), (SELECT string_split($words, ' ') AS words)
    );
"""
INSERT_ARTICLES = """
    INSERT INTO raw_articles (partition_date, {id}, title, body, url, published_at)
    SELECT
        CAST($day AS DATE), 'article-' || lpad((number)::VARCHAR, 8, '0'),
        trim(texts[1 + (hash(number, 'title') % 20000)::BIGINT], chr(10) || ' ,.?'),
        array_to_string(list_transform(
            range(46 + (hash(number) % 13)::BIGINT), lambda k: texts[1 + (hash(number, k, $day) % 20000)::BIGINT]
        ), ''),
        'https://news.example/' || $day || '/' || number,
        CAST($day AS TIMESTAMP) + to_seconds(number % 86400)
    FROM range($articles) AS numbers(number), fragment
"""

# As OpenAI writes them: https://developers.openai.com/api/docs/guides/batch. One line in a hundred failed.
WRITE_RESULTS = """
    COPY (
        SELECT
            'batch_req_' || md5(custom_id) AS id, custom_id,
            {
                'status_code': CASE WHEN is_failed THEN 500 ELSE 200 END,
                'request_id': md5(custom_id),
                'body': CASE WHEN is_failed THEN
                    '{"error":{"message":"The server had an error.","type":"server_error","param":null,"code":null}}'
                ELSE
                    '{"id":"chatcmpl-' || left(custom_id, 29) || '","object":"chat.completion","created":1767571200,'
                    '"model":"gpt-6-luna","choices":[{"index":0,"message":{"role":"assistant","content":'
                    || to_json(trim(array_to_string(list_transform(
                        range(14), lambda k: texts[1 + (hash(custom_id, k) % 20000)::BIGINT]
                    ), ''), E' \n')) ||
                    ',"refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],'
                    '"usage":{"prompt_tokens":640,"completion_tokens":130,"total_tokens":770,'
                    '"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
                    '"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,'
                    '"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},'
                    '"service_tier":"default","system_fingerprint":"fp_1a2b3c4d5e"}'
                END::JSON
            } AS response,
            NULL AS error
        FROM (
            SELECT custom_id, hash(custom_id) % 100 = 0 AS is_failed
            FROM in_flight_request WHERE submission_id = $key
        ), fragment
        WHERE is_failed = $is_failed
    ) TO '{path}' (FORMAT json)
"""


def fill(database: Database, articles: int, *, days: tuple[str, ...] = (DAY,)) -> None:
    """So many articles of about 2 KB on each of these days, straight into `raw_articles`."""
    with database.writing() as connection:
        _make_fragments(connection)
        for day in days:
            connection.execute(INSERT_ARTICLES.format(id="article_id"), {"day": day, "articles": articles})


def write_source(path: Path, articles: int) -> Path:
    """The same articles as a file that can be a source: Parquet, CSV or JSONL, by its ending."""
    with duckdb.connect() as connection:
        _write_days(connection, path, articles, [DAY], "SELECT * EXCLUDE partition_date FROM raw_articles")
    return path


def write_source_of_days(path: Path, articles: int, days: Sequence[str]) -> Path:
    """One file with so many articles on each of these days, in the order of the days. No two have the same id."""
    database = path.with_suffix(".duckdb")  # all days together need not fit into the memory
    with duckdb.connect(str(database)) as connection:
        query = "SELECT strftime(partition_date, '%Y%m%d-') || id AS id, * EXCLUDE (partition_date, id)"
        _write_days(connection, path, articles, days, f"{query} FROM raw_articles")
    database.unlink()
    return path


def _write_days(
    connection: duckdb.DuckDBPyConnection, path: Path, articles: int, days: Sequence[str], query: str
) -> None:
    options = {".csv": "FORMAT csv, HEADER", ".jsonl": "FORMAT json"}.get(path.suffix, "FORMAT parquet")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    connection.execute(
        """
        CREATE TABLE raw_articles (
            partition_date DATE, id VARCHAR, title VARCHAR, body VARCHAR, url VARCHAR, published_at TIMESTAMP
        )
        """
    )
    _make_fragments(connection)
    for day in days:
        connection.execute(INSERT_ARTICLES.format(id="id"), {"day": day, "articles": articles})
    connection.execute(f"COPY ({query}) TO '{path}' ({options})")


def write_results(connection: duckdb.DuckDBPyConnection, submission_id: str, stem: Path) -> list[Path]:
    """Result files of a batch, as if all of its requests had been executed: outputs, errors."""
    _make_fragments(connection)
    paths = []
    for kind, is_failed in (("output", False), ("errors", True)):
        path = stem.with_name(f"{stem.name}_{kind}.jsonl")
        connection.execute(
            WRITE_RESULTS.replace("{path}", path.as_posix()), {"key": submission_id, "is_failed": is_failed}
        )
        paths.append(path)
    return paths


def _make_fragments(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(MAKE_ARTICLES, {"words": WORDS})
