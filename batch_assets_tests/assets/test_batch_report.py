"""The asset with the report: a page in the data folder, and totals that Dagster plots."""

import dagster as dg
import pytest

from batch_assets.asset_keys import BATCH_REPORT
from batch_assets.assets.batch_report import make_report
from batch_assets_tests.conftest import serving
from batch_assets_tests.first_task import summaries
from batch_assets_tests.project import DAY, EVERYTHING, QUIET, UPSTREAM, Project


def materialize(project: Project, *, day: str | None = None) -> dg.ExecuteInProcessResult:
    """The report alone; with a day, all assets of the day and the report."""
    report = make_report(project.tasks)
    return dg.materialize(
        [*project.assets, report],
        selection=[BATCH_REPORT, *([asset.key for asset in EVERYTHING] if day else [])],
        instance=project.instance,
        partition_key=day,
        resources=project.resources,
        run_config=QUIET,
    )


def test_the_report_is_a_private_page_with_its_totals_as_metadata(project: Project) -> None:
    page = project.folder / "data" / "report.html"
    assert materialize(project).success
    assert "No day has figures yet." in page.read_text(encoding="utf-8")
    project.materialize(UPSTREAM)
    project.finish()
    done = materialize(project)
    assert done.success
    [event] = done.get_asset_materialization_events()
    found = {name: value.value for name, value in event.materialization.metadata.items()}
    assert found.pop("path") == str(page)
    simulated = found.pop("simulated_cost_usd")
    assert found == {"days": 1, "articles": 20, "answered": 20, "failed": 0, "cost_usd": 0.0, "saving_usd": 0.0}
    assert project.rows("SELECT round(sum(simulated_cost_usd), 12) FROM spending") == [(simulated,)]
    assert f"Batches from {DAY}" in page.read_text(encoding="utf-8")
    assert page.stat().st_mode & 0o777 == 0o600
    assert not list(page.parent.glob(".report*"))


@pytest.mark.end_to_end
def test_a_run_of_all_assets_of_a_day_succeeds_while_its_batches_run(project: Project) -> None:
    with serving(project.folder / "slow_api", batch_seconds=60) as project.api:
        done = materialize(project, day=DAY)
    assert done.success
    assert summaries.key not in {event.asset_key for event in done.get_asset_materialization_events()}
