"""Finds for each day the Parquet files that have its rows, and makes smaller ones where a day would read too much.

A Parquet file is read in groups of 2,048 rows. If the rows of a source are in the order of their days, a day reads its
own groups and no others. If not, or if the days have few rows, many days would read the same groups.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import duckdb

from batch_assets.batching.ingest.stage import ROW_GROUP_ROWS
from batch_assets.batching.ingest.values import staged_rows
from batch_assets.batching.sql_text import literal

MAX_READS = 8  # how often the days together may read a row: to write it again takes as long as to read it ten times
MIN_FILE_ROWS = 256  # of a smaller file, which may have several days: to write it takes as long as to read 1,000 rows


def files_of_days(
    connection: duckdb.DuckDBPyConnection, paths: Sequence[Path], scratch: Path
) -> Mapping[str, Sequence[Path]]:
    """By day, the files with rows of the day, in the order of the rows. A file may also have rows of other days.

    paths: the staged files. Those that are replaced by smaller ones, in the folder `scratch`, are deleted. Raises
    duckdb.Error, OSError.
    """
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for number, path in enumerate(paths):
        rows = f"(FROM {staged_rows([path])} WHERE day IS NOT NULL)"
        days = connection.execute(
            f"SELECT day::VARCHAR AS day, count(*) FROM {rows} GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        if len(days) > 1 and _reads_too_much(connection, rows):
            connection.execute(f"CREATE OR REPLACE TEMP TABLE sorted_row AS FROM {rows} ORDER BY day, place")
            path.unlink()
            for first, last, days_of_file in _ranges(days):
                smaller = scratch / f"rows_{number}_{first}.parquet"
                connection.execute(
                    f"COPY (FROM sorted_row WHERE rowid BETWEEN {first} AND {last}) TO {literal(str(smaller))} "
                    f"(FORMAT parquet, ROW_GROUP_SIZE {ROW_GROUP_ROWS})"
                )
                for day in days_of_file:
                    found[day].append(smaller)
            connection.execute("DROP TABLE sorted_row")
        else:
            for day, _ in days:
                found[day].append(path)
    return found


def _reads_too_much(connection: duckdb.DuckDBPyConnection, rows: str) -> bool:
    """Whether the days, each reading the groups that may have its rows, together read the rows too often."""
    row = connection.execute(
        f"""
        SELECT sum(number * days) > {MAX_READS} * sum(number) FROM (
            SELECT count(*) AS number, max(day) - min(day) + 1 AS days
            FROM {rows} GROUP BY place // {ROW_GROUP_ROWS}
        )
        """
    ).fetchone()
    return bool(row and row[0])


def _ranges(days: Sequence[tuple[str, int]]) -> Iterator[tuple[int, int, list[str]]]:
    """The first and the last row of each file, from 0, and its days. days: the days in their order, with their rows."""
    first = end = 0
    days_of_file: list[str] = []
    for day, number in days:
        days_of_file.append(day)
        end += number
        if end - first >= MIN_FILE_ROWS:
            yield first, end - 1, days_of_file
            first, days_of_file = end, []
    if days_of_file:
        yield first, end - 1, days_of_file
