"""The asset with the report: a page over the last days, for readers who do not open Dagster."""

from typing import Any

import dagster as dg

from batch_assets.asset_keys import BATCH_REPORT, REPORT_GROUP
from batch_assets.batching.counting import counted
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.safety.clean_errors import without_secrets_in_errors
from batch_assets.batching.safety.private_folder import make_private_folder
from batch_assets.report.page import page_of
from batch_assets.report.read import Report, read_report
from batch_assets.report.sums import articles_of, money_of
from batch_assets.report.write import FILE_NAME, write_page
from batch_assets.resources import WAREHOUSE, Warehouse
from batch_assets.task_set import TaskSet


def make_report(tasks: TaskSet) -> dg.AssetsDefinition:
    """The report about all tasks. It has no partitions, and it is materialized by the user or by its schedule."""

    @without_secrets_in_errors
    def batch_report(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """Read the figures of the last 30 days that have any, and write the page."""
        warehouse: Warehouse = getattr(context.resources, WAREHOUSE)
        with warehouse.tables.reading() as connection:
            report = read_report(connection, None, now_utc())
        make_private_folder(warehouse.files)
        path = warehouse.files / FILE_NAME
        write_page(path, page_of(report))
        context.log.info(f"The report has {counted(report.number_of_days, 'day')}.")
        return dg.MaterializeResult(metadata={"path": dg.MetadataValue.path(path), **_totals(report)})

    return dg.asset(
        key=BATCH_REPORT,
        # As Dagster sees it, the report needs no day of the results: it is of the figures that there are.
        deps=[
            dg.AssetDep(declared.keys.results, partition_mapping=dg.SpecificPartitionsPartitionMapping([]))
            for declared in tasks.tasks
        ],
        description="A page about the last 30 days: what they cost and saved, how many articles were answered or "
        "failed and why, what waits, and how long batches took. `report.html` in the data folder; it loads nothing.",
        # In a group with other assets, "Materialize all" would warn of tasks that the user has not materialized yet.
        group_name=REPORT_GROUP,
        kinds={"html"},
        required_resource_keys={WAREHOUSE},
    )(batch_report)


def _totals(report: Report) -> dict[str, Any]:
    """Numbers only, which Dagster plots over time. No cost and no saving if a price is not known."""
    articles, money = articles_of(report.days), money_of(report.costs_by_model)
    costs = {"cost_usd": money.billed, "saving_usd": money.saving} if money.is_known else {}
    simulated = {"simulated_cost_usd": money.simulated} if money.simulated else {}
    return {
        "days": report.number_of_days,
        "articles": articles["articles"],
        "answered": articles["answered"],
        "failed": articles["failed"],
        **costs,
        **simulated,
    }
