"""Asset checks by the figures of a day: its articles, its request files, and its results. All are partitioned by day.

Each finds something that the user may want to act on; none stops a run. `checks` has those that guard the budgets and
the tables.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import dagster as dg
import duckdb

from batch_assets.batching.counting import USD_DECIMALS, counted, usd
from batch_assets.batching.ingest.tables import Ingested
from batch_assets.batching.ledger.batch_figures import REQUEUED, BatchFigures
from batch_assets.batching.ledger.day_figures import DayFigures
from batch_assets.batching.ledger.submissions import unsent_files
from batch_assets.batching.planning.shards import FileLimits
from batch_assets.checks import ARTICLES, BUDGET, USAGE, daily_check, evaluation_of_day
from batch_assets.task_set import DeclaredTask, Feed

USABLE, UNIQUE = "articles_are_usable", "ids_are_unique"
WITHIN_LIMITS = "files_are_within_limits"
COMPLETED, ANSWERED = "every_batch_completed", "every_article_is_answered"
NOT_CUT, COST = "no_answer_is_cut", "cost_is_within_estimate"
MAX_UNUSABLE_SHARE = 0.1
ROWS_OF_DAY = """
    SELECT
        (SELECT count(*) FROM raw_articles WHERE source = $source AND partition_date = CAST($day AS DATE)) AS articles,
        count(*) FILTER (reason NOT IN ('duplicate_id', 'older_version')) AS unusable,
        count(*) FILTER (reason = 'duplicate_id') AS duplicates,
        count(*) FILTER (reason = 'older_version') AS older_versions
    FROM rejected_article WHERE source = $source AND partition_date = CAST($day AS DATE)
"""


def articles_checks(declared: DeclaredTask) -> list[dg.AssetCheckSpec]:
    """Those of the articles that this task reads."""
    descriptions = {
        USABLE: "The source has articles of the day, and at most a tenth of its rows have no text or cannot be read."
        "\n\n`rejected_article` has these rows, with the file, the line and the reason.",
        UNIQUE: "No two rows of the day have the same id. One of them counts: see `newest_by` in docs/sources.md.",
    }
    return [daily_check(name, declared, declared.feed.key, text) for name, text in descriptions.items()]


def request_file_checks(declared: DeclaredTask) -> list[dg.AssetCheckSpec]:
    description = (
        "The request files that wait to be sent fit into OpenAI's limits of a file, and all of them together into "
        "BATCH_ASSETS_MAX_ENQUEUED_TOKENS. If they do not, the run sends them one after another."
    )
    return [daily_check(WITHIN_LIMITS, declared, declared.keys.batch_request_file, description)]


def results_checks(declared: DeclaredTask) -> list[dg.AssetCheckSpec]:
    descriptions = {
        COMPLETED: "Each batch of the day's last plan completed: none failed, expired, was cancelled or was lost.",
        ANSWERED: "Each article of the day has an answer.\n\n`batch-assets errors DAY` shows the others, and what to "
        "do.",
        NOT_CUT: "No answer ended at the limit on its output tokens.\n\nWith a higher `max_output_tokens`, the next "
        "plan of the day sends just these requests again.",
        COST: "The batches of the day cost at most what the run estimated before it submitted them.",
    }
    return [daily_check(name, declared, declared.keys.results, text) for name, text in descriptions.items()]


class RowsOfDay(NamedTuple):
    """How many articles the day has, and how many of its rows are none, and why."""

    articles: int
    unusable: int
    duplicates: int
    older_versions: int


def rows_of_day(connection: duckdb.DuckDBPyConnection, source: str, day: str) -> RowsOfDay:
    row = connection.execute(ROWS_OF_DAY, {"source": source, "day": day}).fetchone()
    assert row is not None  # an aggregate without GROUP BY has one row
    return RowsOfDay(*row)


def rows_of_ingested(ingested: Ingested) -> RowsOfDay:
    duplicates, older = (ingested.rejected.get(reason, 0) for reason in ("duplicate_id", "older_version"))
    articles = ingested.articles_before if ingested.is_kept else ingested.articles
    return RowsOfDay(articles, sum(ingested.rejected.values()) - duplicates - older, duplicates, older)


def check_usable(feed: Feed, rows: RowsOfDay, day: str) -> dg.AssetCheckEvaluation:
    all_rows = rows.articles + rows.unusable
    share = rows.unusable / all_rows if all_rows else 0.0
    if rows.articles:
        description = f"{counted(rows.unusable, 'row')} of the day cannot be an article: {share:.0%} of its rows."
    else:
        description = "The source has no article for the day."
    return _warning(
        feed.key,
        USABLE,
        day,
        passed=rows.articles > 0 and share <= MAX_UNUSABLE_SHARE,
        description=description,
        metadata={"articles": rows.articles, "unusable_rows": rows.unusable, "unusable_share": round(share, 4)},
    )


def check_unique(feed: Feed, rows: RowsOfDay, day: str) -> dg.AssetCheckEvaluation:
    return _warning(
        feed.key,
        UNIQUE,
        day,
        passed=not rows.duplicates,
        description=f"{counted(rows.duplicates, 'row')} with an id that another row of the day has.",
        metadata={"duplicate_rows": rows.duplicates, "older_versions": rows.older_versions},
    )


ARTICLES_CHECKS: Mapping[str, Callable[[Feed, RowsOfDay, str], dg.AssetCheckEvaluation]] = {
    USABLE: check_usable,
    UNIQUE: check_unique,
}


def check_limits(
    connection: duckdb.DuckDBPyConnection, declared: DeclaredTask, max_enqueued_tokens: int | None, day: str
) -> dg.AssetCheckEvaluation:
    """Evaluate `files_are_within_limits`."""
    unsent, limits = unsent_files(connection, declared.task.on(day)), FileLimits()
    problems = []
    if unsent.most_requests > limits.max_requests or unsent.most_bytes > limits.max_bytes:
        problems.append(
            f"A request file has {counted(unsent.most_requests, 'request')} and {unsent.most_bytes:,} bytes; OpenAI "
            f"allows {limits.max_requests:,} and {limits.max_bytes:,}."
        )
    if max_enqueued_tokens is not None and unsent.estimated_input_tokens > max_enqueued_tokens:
        problems.append(
            f"The files have an estimated {unsent.estimated_input_tokens:,} tokens. BATCH_ASSETS_MAX_ENQUEUED_TOKENS "
            f"allows {max_enqueued_tokens:,}: the run sends some of them when others have ended."
        )
    return _warning(
        declared.keys.batch_request_file,
        WITHIN_LIMITS,
        day,
        passed=not problems,
        description=" ".join(problems),
        metadata={
            "files": unsent.files,
            "most_requests_in_a_file": unsent.most_requests,
            "most_bytes_in_a_file": unsent.most_bytes,
            "estimated_input_tokens": unsent.estimated_input_tokens,
        },
    )


def check_completed(
    declared: DeclaredTask, figures: DayFigures, batches: Sequence[BatchFigures]
) -> dg.AssetCheckEvaluation:
    # not the highest round: a changed prompt begins with the first one again
    last_plan = max((batch.plan for batch in batches), default=0)
    of_plan = [batch for batch in batches if batch.plan == last_plan and batch.state != REQUEUED]
    outcomes = Counter(batch.outcome or "unknown" for batch in of_plan)
    others = outcomes.total() - outcomes["completed"]
    return _warning(
        declared.keys.results,
        COMPLETED,
        figures.day,
        passed=not others,
        description=f"{counted(others, 'batch', 'batches')} of {len(of_plan):,} did not complete.",
        metadata={
            "batches": len(of_plan),
            "rounds": max((batch.round for batch in of_plan), default=0),
            "outcomes": dg.MetadataValue.json(dict(outcomes)),
            "requests_without_answer": sum(batch.requests_failed or 0 for batch in of_plan),
        },
    )


def check_answered(
    declared: DeclaredTask, figures: DayFigures, batches: Sequence[BatchFigures]
) -> dg.AssetCheckEvaluation:
    missing = figures.articles - figures.answered
    return _warning(
        declared.keys.results,
        ANSWERED,
        figures.day,
        passed=not missing,
        description=f"{missing:,} of {counted(figures.articles, 'article')} without an answer.",
        metadata={"articles": figures.articles, **figures.by_status},
    )


def check_not_cut(
    declared: DeclaredTask, figures: DayFigures, batches: Sequence[BatchFigures]
) -> dg.AssetCheckEvaluation:
    return _warning(
        declared.keys.results,
        NOT_CUT,
        figures.day,
        passed=not figures.cut,
        description=f"{figures.cut:,} of {counted(figures.answered, 'answer')} cut: {figures.cut_share:.1%}.",
        metadata={"answers": figures.answered, "cut": figures.cut, "share": round(figures.cut_share, 4)},
    )


def check_cost(declared: DeclaredTask, figures: DayFigures, batches: Sequence[BatchFigures]) -> dg.AssetCheckEvaluation:
    """Evaluate `cost_is_within_estimate`: by what the collected batches cost, or would have cost."""
    costs = [(batch, _usd(batch)) for batch in batches if batch.state == "collected"]
    priced = [(batch, amount) for batch, amount in costs if amount is not None and batch.max_cost_usd is not None]
    cost = sum(amount for _, amount in priced)
    highest = sum(batch.max_cost_usd or 0.0 for batch, _ in priced)
    expected = [batch.expected_cost_usd for batch, _ in priced if batch.expected_cost_usd is not None]
    unknown = len(costs) - len(priced)
    is_within = cost <= highest * (1 + 1e-9)
    estimate = usd(highest, cost)
    description = f"The batches cost {usd(cost, highest)}; the estimate before they were sent was at most {estimate}."
    if is_within:
        description = f"The cost of {counted(unknown, 'batch', 'batches')} is not known." if unknown else ""
    return evaluation_of_day(
        declared.keys.results,
        COST,
        figures.day,
        passed=is_within,
        description=description or None,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "cost_usd": round(cost, USD_DECIMALS),
            "estimated_at_most_usd": round(highest, USD_DECIMALS),
            **({"expected_usd": round(sum(expected), USD_DECIMALS)} if expected else {}),
            "batches_of_unknown_cost": unknown,
        },
    )


def _usd(batch: BatchFigures) -> float | None:
    return batch.simulated_cost_usd if batch.cost_usd is None else batch.cost_usd


RESULTS_CHECKS: Mapping[str, Callable[[DeclaredTask, DayFigures, Sequence[BatchFigures]], dg.AssetCheckEvaluation]] = {
    COMPLETED: check_completed,
    ANSWERED: check_answered,
    NOT_CUT: check_not_cut,
    COST: check_cost,
}

CHECKS_OF_REQUEST_FILES = (BUDGET, WITHIN_LIMITS)
CHECKS_OF_RESULTS = (ARTICLES, USAGE, *RESULTS_CHECKS)


def _warning(
    asset: dg.AssetKey,
    check: str,
    day: str,
    *,
    passed: bool,
    description: str,
    metadata: dict[str, dg.MetadataValue | int | float | bool],
) -> dg.AssetCheckEvaluation:
    """The result of a check that warns. It has the description only if it fails."""
    return evaluation_of_day(
        asset,
        check,
        day,
        passed=passed,
        description=None if passed else description,
        metadata=metadata,
        severity=dg.AssetCheckSeverity.WARN,
    )
