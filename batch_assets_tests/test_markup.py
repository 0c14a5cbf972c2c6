"""No text of others is stored where Dagster's UI renders Markdown or a link.

It renders as Markdown: metadata of that type, and the descriptions of materializations, observations and checks.
"""

import re
import sys
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from batch_assets_tests.conftest import serving
from batch_assets_tests.first_task import summaries, usage_adds_up
from batch_assets_tests.hostile_day import MESSAGE, run_hostile_days
from batch_assets_tests.nasty_texts import BAIT, ESCAPES, TEXTS
from batch_assets_tests.project import Project

IS_RENDERED = (dg.MarkdownMetadataValue, dg.UrlMetadataValue, dg.NotebookMetadataValue)
CODE = re.compile("`[^`\n]+`")


def shown_by_the_ui(instance: dg.DagsterInstance) -> tuple[list[str], list[dg.MetadataValue]]:
    """The descriptions that are rendered, and all metadata, of all events."""
    descriptions: list[str] = []
    metadata: list[dg.MetadataValue] = []
    for record in instance.get_run_records():
        for entry in instance.all_logs(record.dagster_run.run_id):
            event = entry.dagster_event
            found: Any = None
            if event is None:
                continue
            if event.is_step_materialization:
                found = event.step_materialization_data.materialization
            elif event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
                found = event.asset_check_evaluation_data
            elif event.is_step_failure and event.step_failure_data.user_failure_data:
                metadata += event.step_failure_data.user_failure_data.metadata.values()
            if found is not None:
                descriptions += [found.description or ""]
                metadata += found.metadata.values()
    for asset in instance.all_asset_keys():
        for fetch in (instance.fetch_materializations, instance.fetch_observations):
            for event_record in fetch(asset, limit=1000).records:
                found = event_record.asset_materialization or event_record.asset_observation
                descriptions += [found.description or ""]
                metadata += found.metadata.values()
    return descriptions, metadata


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project in which the hostile days were run."""
    folder = tmp_path_factory.mktemp("hostile")
    with (
        pytest.MonkeyPatch.context() as patch,
        serving(folder / "local_api") as api,
        dg.DagsterInstance.ephemeral(tempdir=str(folder)) as instance,
    ):
        patch.setattr(sys.modules["batch_assets.assets.results"], "PREVIEW_ROWS", 50)
        project = Project(folder, api, instance, "")
        run_hostile_days(project)
        yield project


def test_no_outside_text_is_where_the_ui_renders_markdown(hostile: Project) -> None:
    descriptions, metadata = shown_by_the_ui(hostile.instance)
    assert len(metadata) > 50
    assert not [value for value in metadata if isinstance(value, IS_RENDERED)]
    assert any(BAIT in text for text in descriptions)  # the model, in a form that is shown as it is
    for text in descriptions:
        assert "bait" not in CODE.sub("", text), text


def test_the_preview_shows_the_texts_as_they_are(hostile: Project) -> None:
    preview = hostile.metadata(summaries)["preview"]
    cells = [str(record.data[name]) for record in preview.records for name in ("article", "answer")]
    assert len(cells) == 2 * len(TEXTS)
    for text in TEXTS:
        assert any(" ".join(text.split())[:200] in cell for cell in cells), text
    assert not any(sign in cell for sign in "\x1b\x00\n\u202e\x9b" for cell in cells)


def test_what_an_api_says_is_stored_without_what_would_act(hostile: Project) -> None:
    [(refusal,)] = hostile.rows("SELECT message FROM openai_batch WHERE message IS NOT NULL")
    assert refusal.startswith(MESSAGE.removesuffix(ESCAPES))
    assert not set(refusal) & set("\x1b\x00\x07\x9b\x9d\u202e\u2066\ufeff")


def test_a_check_names_batches_in_its_metadata_only(hostile: Project) -> None:
    """An API may return any text as an id."""
    with hostile.database.writing() as connection:
        connection.execute("UPDATE spending SET batch_id = '![image](x)' WHERE kind = 'unattributed'")
    result = hostile.check(usage_adds_up)
    assert result.description == "1 batch billed more tokens than the lines of the requests."
    assert result.metadata["batches_off"].value == ["![image](x)"]
