"""Prints docs/faults.md: one fault at a time, on real processes, counted at the server.

    python -m benchmarks.faults > docs/faults.md

Takes about seven minutes. Exits with 1 if a row loses an answer or buys a request twice.
"""

import sys
import tempfile
from pathlib import Path

from batch_assets_tests.faults.scenarios import ARTICLES, LONG_SCENARIOS, SCENARIOS, counts_of, killed_at_every_point

HEADER = f"""# What breaks, and what it costs

Made by `python -m benchmarks.faults`. Each row is a day of {ARTICLES} articles on a persistent Dagster instance, with
the real assets and the real sensor in a process of their own, and a proxy in front of the local Batch API that
injects the fault of the row. Batches and requests are counted at the server. No user intervenes.

*Destroyed* are executed answers that the fault made unreadable or withheld for ever: only these may be executed again.
*Unaccounted for* are articles without a summary at the end.

| fault | batches created | requests executed | distinct requests | destroyed | unaccounted for |
|---|---|---|---|---|---|"""
FOOTER = """
The child process counts the points of the last row: before and after each HTTP request, transaction, rename,
fsync and materialization. `make test-thorough` plays 300 random schedules of such faults, kills, edits and
re-materializations over several days as well.

Two further tests draw their faults from a seed:

- *Histories* (`faults/test_histories.py`, 12 in `make test`, 300 in `make test-thorough`): two databases, three
  accounts, and a user who refreshes, changes prompts and limits, cancels, retries and gives batches up. Beside lost
  answers and lists that lag, the account fails (creations, whole batches, single lines), result files are late, and
  batches are stuck. After each collection, `spending` is what the server billed, to the cent, and no answered request
  was sent again.
- *Months* (`faults/test_month.py`, one in `make test`, 20 in `make test-thorough`): 30 days of one database, with the
  real sensor and a simulated clock. The daemon is killed and loses its cursor, runs are deleted, the API is down, a
  key is revoked and replaced, and on one weekend there is no key. Without a user every day ends; a day with a batch
  that is stuck for ever waits, and the sensor names the batch and the command."""


def main() -> None:
    """Print the page; exit with 1 if a row loses an answer or buys a request twice."""
    print(HEADER)
    bad = False
    with tempfile.TemporaryDirectory() as folder:
        for number, scenario in enumerate(SCENARIOS + LONG_SCENARIOS):
            found = counts_of(scenario, Path(folder) / str(number))
            cells = (found.batches, found.executed, found.distinct, scenario.lost, found.unaccounted)
            print(f"| {scenario.name} | {' | '.join(map(str, cells))} |", flush=True)
            bad = bad or found.executed != found.distinct + scenario.lost or found.unaccounted > 0
        points, killed = killed_at_every_point(Path(folder) / "kill")
    cells = (killed.batches, killed.executed, killed.distinct, 0, killed.unaccounted)
    print(f"| kill -9 at each of {points} points, a day of 3 articles each | {' | '.join(map(str, cells))} |")
    print(FOOTER)
    sys.exit(bad or killed.executed != killed.distinct or killed.unaccounted > 0)


if __name__ == "__main__":
    main()
