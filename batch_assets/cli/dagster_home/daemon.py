"""Dagster's daemon, which looks for new backfills every two seconds.

Dagster's own constant is 30 s, and no setting changes it: so long a backfill would wait for its first run.
"""

from dagster._daemon import controller
from dagster._daemon.cli import main

BACKFILL_SECONDS = 2

if __name__ == "__main__":
    assert controller.DEFAULT_DAEMON_INTERVAL_SECONDS  # the name that the loop of backfills imports
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = BACKFILL_SECONDS
    main()
