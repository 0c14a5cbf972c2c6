"""Dagster's definitions of tasks. `definitions`, the component and other projects call this."""

from collections.abc import Collection, Sequence

import dagster as dg

from batch_assets.assets.batch_report import make_report
from batch_assets.assets.results import make_results
from batch_assets.assets.submission import make_submit_days
from batch_assets.freshness import freshness_checks, freshness_sensor
from batch_assets.jobs import cancel_job, submit_job
from batch_assets.notifications.sensor import build_notifications
from batch_assets.resources import WAREHOUSE, our_resources
from batch_assets.schedules import nightly_schedule, report_schedule
from batch_assets.sensors import build_sensor
from batch_assets.settings import Settings
from batch_assets.task_set import DeclaredTask, TaskSet, make_task_set


def build_batch_definitions(
    tasks: Sequence[DeclaredTask], settings: Settings, *, own_articles: Collection[dg.AssetKey] = ()
) -> dg.Definitions:
    """The assets, checks, jobs and schedules of these tasks, their one sensor and one report, and their resources.

    own_articles: the assets with articles that the project makes itself: they write the table `raw_articles`.

    A code location calls it once, with all of its tasks: it has one sensor and one report. There is no executor: that
    of the project runs the steps. Raises ValueError if two tasks contradict each other.
    """
    task_set = make_task_set(tasks, settings)
    parts = [definitions_of(task_set, declared, settings, own_articles) for declared in task_set.tasks]
    return dg.Definitions.merge(*parts, definitions_of_all(task_set, settings))


def definitions_of_all(tasks: TaskSet, settings: Settings) -> dg.Definitions:
    """What all tasks have together, once: the sensors that poll and that send messages, freshness, and the report."""
    fresh = freshness_checks(tasks.tasks)
    sensors = [build_sensor(tasks, settings.poll_seconds), freshness_sensor(fresh)]
    return dg.Definitions.merge(
        dg.Definitions(assets=[make_report(tasks)], asset_checks=fresh, schedules=[report_schedule()], sensors=sensors),
        build_notifications(tasks, settings.notify, settings.poll_seconds),
    )


def definitions_of(
    tasks: TaskSet, declared: DeclaredTask, settings: Settings, own_articles: Collection[dg.AssetKey] = ()
) -> dg.Definitions:
    """Those of one task, without what all share. The first task that reads a feed has the step of all of them."""
    is_first_of_feed = tasks.reading(declared.feed)[0] is declared
    has_articles = declared.feed.key not in own_articles
    submission = [make_submit_days(tasks, declared.feed, with_articles=has_articles)] if is_first_of_feed else []
    job = submit_job(declared)
    ours = our_resources(settings)
    return dg.Definitions(
        assets=[*submission, make_results(tasks, declared)],
        jobs=[job, cancel_job(declared)],
        schedules=[nightly_schedule(declared, job)],
        # a project may have its own resource with the API
        resources={key: ours[key] for key in ours if key in (WAREHOUSE, declared.openai)},
    )
