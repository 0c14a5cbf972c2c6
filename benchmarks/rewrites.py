"""The size of a database file after many rewrites of one day."""

from pathlib import Path

from batch_assets.batching.collection.day_results import write_results
from batch_assets.batching.ingest.articles import ingest_day
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.requests import RequestStateRules
from batch_assets.batching.planning.plan import plan_day
from batch_assets.batching.planning.plan_options import PlanOptions
from benchmarks import load
from benchmarks.data import DAY, RESULTS, TASK


def sizes(folder: Path, source: Path, times: int) -> list[int]:
    """The bytes of the file after the first collection of a day, and after each of so many rewrites.

    A rewrite is a new materialization of the day: it replaces articles, requests and summaries.
    """
    database = Database(str(folder / "rewritten.duckdb"))
    after = []
    for number in range(times + 1):
        ingest_day(database, source=str(source), day=DAY)
        plan_day(database, day=DAY, task=TASK, data_folder=folder / "rewritten", options=PlanOptions(max_rounds=3))
        if number == 0:
            load.ours(database.path, load.make_results(database.path, folder / "results"))
        write_results(database, RESULTS, DAY, RequestStateRules())
        after.append(Path(database.path).stat().st_size)
    return after
