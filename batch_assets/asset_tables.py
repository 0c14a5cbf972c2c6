"""What Dagster shows of the tables of our assets: their columns with comments, and from which columns these come."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from batch_assets.batching.ledger.result_tables import ARTICLE_COLUMNS, COLUMNS_AFTER, KEY_COLUMNS
from batch_assets.batching.ledger.table_comments import DescribedColumn, described_tables
from batch_assets.batching.task_day import FIRST_TASK
from batch_assets.task_set import DeclaredTask

STORAGE_KIND = "duckdb"


def table_metadata(table: str, lineage: dg.TableColumnLineage | None = None) -> dict[str, Any]:
    """The metadata of an asset that is a table of the ledger."""
    columns = [_column(column) for column in described_tables()[table].columns]
    return _metadata(table, columns, lineage)


def request_lineage(declared: DeclaredTask) -> dg.TableColumnLineage:
    """Of `batch_request_file`: a request file has the requests of the day's articles."""
    return dg.TableColumnLineage(
        {
            "partition_date": _from(declared, ["partition_date"]),
            "sha256": _from(declared, _asked_columns(declared)),
        }
    )


def result_metadata(declared: DeclaredTask) -> dict[str, Any]:
    """The metadata of the results of a task, whose answers come from the columns that its prompt uses."""
    results = declared.results
    fixed = {column.name: column for column in described_tables()[FIRST_TASK].columns}
    article_columns = dict(zip(results.article_columns, ARTICLE_COLUMNS, strict=True))
    columns = [
        *(_column(fixed[name]) for name in KEY_COLUMNS),
        *(_column(fixed[name]._replace(name=shown)) for shown, name in article_columns.items()),
        *(dg.TableColumn(column.name, column.type, column.description) for column in results.columns),
        *(_column(fixed[name]) for name in COLUMNS_AFTER),
    ]
    sources: dict[str, list[dg.TableColumnDep]] = {
        **{name: _from(declared, [name]) for name in KEY_COLUMNS},
        **{shown: _from(declared, [name]) for shown, name in article_columns.items()},
        **{column.name: _from(declared, _asked_columns(declared)) for column in results.columns},
    }
    return _metadata(declared.name, columns, dg.TableColumnLineage(sources))


def _metadata(table: str, columns: Iterable[dg.TableColumn], lineage: dg.TableColumnLineage | None) -> dict[str, Any]:
    return {
        "dagster/column_schema": dg.TableSchema(columns=list(columns)),
        "dagster/table_name": table,
        "dagster/storage_kind": STORAGE_KIND,
        **({} if lineage is None else {"dagster/column_lineage": lineage}),
    }


def _column(column: DescribedColumn) -> dg.TableColumn:
    return dg.TableColumn(column.name, column.type, column.comment)


def _asked_columns(declared: DeclaredTask) -> list[str]:
    """The columns of `raw_articles` that the prompt of the task uses. Further columns of the source are in `extra`."""
    of_table = [column.name for column in described_tables()["raw_articles"].columns]
    asked = ["body"] if declared.task.needs_body else []
    asked += [name if name in of_table else "extra" for name in declared.task.columns]
    return list(dict.fromkeys(asked)) or ["body"]


def _from(declared: DeclaredTask, columns: Iterable[str]) -> list[dg.TableColumnDep]:
    return [dg.TableColumnDep(asset_key=declared.feed.key, column_name=name) for name in columns]


def uri_metadata(database_path: str | None) -> Mapping[str, dg.MetadataValue]:
    """Where the table is; nothing for a database that is no file: its URL may have a token."""
    if database_path is None:
        return {}
    return {"dagster/uri": dg.MetadataValue.text(Path(database_path).as_uri())}
