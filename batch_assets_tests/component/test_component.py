"""`BatchTask` in the project of a user: its fields, its names, and what it shares with the user's definitions."""

from pathlib import Path

import dagster as dg
import pytest

import batch_assets
from batch_assets.component import BatchTask, BatchTaskScaffolder
from batch_assets.declare import declare
from batch_assets.settings import read_settings
from batch_assets.task_set import make_task_set
from batch_assets_tests.component.project_folder import ProjectFolder, errors_of

SCHEMA = """
output_schema:
  type: object
  properties:
    topics: {type: array, items: {type: string}}
  required: [topics]
  additionalProperties: false
"""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProjectFolder:
    monkeypatch.setenv("BATCH_ASSETS_DATA_DIR", str(tmp_path / "data"))
    return ProjectFolder(tmp_path / "host", "host_of_tests", monkeypatch)


def of_yaml(attributes: str) -> BatchTask:
    component = BatchTask.resolve_from_yaml(attributes)
    assert isinstance(component, BatchTask)
    return component


def test_the_package_has_the_component_and_imports_it_late() -> None:
    assert "BatchTask" in dir(batch_assets)
    assert batch_assets.BatchTask is BatchTask


def test_two_tasks_share_the_articles_and_one_sensor(host: ProjectFolder) -> None:
    host.task("topics", SCHEMA)
    host.task("mood")
    definitions = host.load()
    assert host.asset_names() == {
        "raw_articles",
        "batch_report",
        *(f"{task}/{name}" for task in ("topics", "mood") for name in ("batch_request_file", "openai_batch", task)),
    }
    assert [sensor.name for sensor in definitions.sensors or []] == [
        "openai_batch_sensor",
        "batch_assets_freshness_sensor",
    ]
    assert {job.name for job in definitions.jobs or []} == {
        "submit_topics", "cancel_topics", "submit_mood", "cancel_mood",
    }  # fmt: skip
    dg.Definitions.validate_loadable(definitions)


def test_a_task_with_a_source_of_its_own_has_articles_of_its_own(host: ProjectFolder) -> None:
    host.task("topics", "source: 'SELECT * FROM comments'\ndeps: [comments]")
    host.task("mood")
    host.write(
        "comments.py",
        """
        import dagster as dg

        @dg.asset(partitions_def=dg.DailyPartitionsDefinition("2026-01-05"))
        def comments() -> None: ...
        """,
    )
    graph = host.load().resolve_asset_graph()
    assert graph.get(dg.AssetKey(["topics", "raw_articles"])).parent_keys == {dg.AssetKey("comments")}
    assert graph.get(dg.AssetKey(["topics", "batch_request_file"])).parent_keys == {
        dg.AssetKey(["topics", "raw_articles"])
    }
    assert dg.AssetKey("raw_articles") in graph.get_all_asset_keys()


def test_a_project_with_names_of_its_own_loads_beside_ours(host: ProjectFolder) -> None:
    host.task("summaries")
    host.write(
        "theirs.py",
        """
        import dagster as dg

        @dg.asset
        def summaries() -> None: ...

        @dg.definitions
        def defs() -> dg.Definitions:
            return dg.Definitions(
                assets=[summaries],
                resources={"openai": "theirs", "warehouse": "theirs", "io_manager": dg.mem_io_manager},
                executor=dg.in_process_executor,
            )
        """,
    )
    definitions = host.load()
    dg.Definitions.validate_loadable(definitions)
    assert {"summaries", "summaries/summaries"} <= host.asset_names()


def test_a_prompt_is_no_template_of_dagster(host: ProjectFolder) -> None:
    text = 'Answer {"a": {{ env.HOME }}}, {# none #} and {% nothing %}. "123"'
    host.write("topics/prompt.md", text)
    host.task("topics", "system_prompt_file: prompt.md\nuser_template: '{title} {{ x }} {body} {% y %}'")
    tree = dg.ComponentTree.for_project(host.package)
    [component] = tree.get_all_components(BatchTask)
    task = declare(component).task
    assert task.system_prompt == text
    assert task.user_template == "{title} {{ x }} {body} {% y %}"


def test_a_schema_may_be_that_of_a_pydantic_model(host: ProjectFolder) -> None:
    (host.package / "models.py").write_text(
        "from pydantic import BaseModel\n\nclass Topics(BaseModel):\n    topics: list[str]\n    is_local: bool\n",
        encoding="utf-8",
    )
    host.task("topics", "output_schema: host_of_tests.models:Topics")
    [component] = dg.ComponentTree.for_project(host.package).get_all_components(BatchTask)
    declared = declare(component)
    assert [column.name for column in declared.results.columns] == ["topics", "is_local"]


def test_a_task_with_images_looks_beside_its_file(host: ProjectFolder) -> None:
    host.task("captions", "source: ./pictures.jsonl\nimage: picture\nimage_folder: ./pictures")
    [component] = dg.ComponentTree.for_project(host.package).get_all_components(BatchTask)
    declared = declare(component)
    folder = host.package / "defs" / "captions"
    assert declared.feed.source.source == str(folder / "pictures.jsonl")
    assert declared.image_folder == folder / "pictures"
    assert declared.task.columns == ("picture",)
    assert declared.task.user_template == "Describe this image."
    assert not make_task_set([declared], read_settings()).source_of(declared.feed).needs_body


def test_a_task_for_vectors_has_no_prompt_and_no_output_tokens(host: ProjectFolder) -> None:
    host.task("vectors", "endpoint: /v1/embeddings\nmodel: text-embedding-3-small\ndimensions: 512")
    [component] = dg.ComponentTree.for_project(host.package).get_all_components(BatchTask)
    declared = declare(component)
    assert (declared.task.system_prompt, declared.task.max_output_tokens) == ("", 0)
    assert [(column.name, column.type) for column in declared.results.columns] == [("embedding", "FLOAT[512]")]
    dg.Definitions.validate_loadable(host.load())


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ("endpoint: /v1/embeddings\nsystem_prompt: Embed.", "`system_prompt`, which /v1/embeddings does not take"),
        ("escalation: [{after: [slow]}]", "Step 1 of `escalation`"),
        ("escalation: [{}]", "asks the same as an earlier one"),
        ("max_output_tokens: 0", "max_output_tokens is 0"),
        ("user_template: 'Title: {title}'", "no {body}"),
        ("user_template: '{boddy} {body}'", "Is it {body}?"),
        ("columns: [title]", "`columns` has 'title'"),
        ("max_cost_usd: -1", "max_cost_usd is -1"),
        ("max_rounds: 0", "max_rounds is 0"),
        ("answer_column: status", "answer_column: The field"),
        ("answer_column: Status", "answer_column: The field"),
        ("answer_column: ''", "answer_column: "),
        ("output_schema: {type: object}", "output_schema: "),
        ("output_schema: no_such_module:Model", "cannot be imported"),
        ("output_schema: json:loads", "no pydantic model"),
        ("output_schema: json", "it must be a JSON schema, or module:PydanticModel"),
        ("system_prompt_file: nowhere.md", "cannot be read"),
        ("system_prompt: a\nsystem_prompt_file: defs.yaml", "remove one"),
        ("partitions_def: \"{{ dg.StaticPartitionsDefinition(['a']) }}\"", "must be a DailyPartitionsDefinition"),
        ("prices: [{model: m}]", "`prices`: "),
        ("promt: x", "promt"),
        (SCHEMA.replace("additionalProperties: false", "additionalProperties: true"), "additionalProperties"),
        (SCHEMA.replace("topics", "status"), "status"),
    ],
)
def test_a_mistake_is_named_when_the_definitions_load(host: ProjectFolder, attributes: str, sentence: str) -> None:
    host.task("topics", attributes)
    with pytest.raises(Exception) as raised:  # noqa: PT011 - Dagster wraps it in one of several errors
        host.load().resolve_asset_graph()
    assert sentence in errors_of(raised.value)


@pytest.mark.parametrize("name", ["Topics", "1st", "a-b", "a b", "raw_articles", "completion", "x" * 64, "ä"])
def test_a_name_that_cannot_be_a_table_is_refused(host: ProjectFolder, name: str) -> None:
    host.write("topics/defs.yaml", f"type: batch_assets.BatchTask\nattributes:\n  name: '{name}'\n")
    with pytest.raises(Exception) as raised:  # noqa: PT011
        host.load().resolve_asset_graph()
    assert name in errors_of(raised.value)


def test_all_mistakes_are_named_at_once(host: ProjectFolder) -> None:
    host.task("topics", "max_output_tokens: 0\nuser_template: nothing\ntemperature: 1")
    with pytest.raises(Exception) as raised:  # noqa: PT011
        host.load().resolve_asset_graph()
    assert "max_output_tokens is 0" in errors_of(raised.value)
    assert "no {body}" in errors_of(raised.value)


def test_a_task_that_dagster_would_not_find_does_not_load(host: ProjectFolder) -> None:
    """Without the annotation, its batches would be paid for, and no sensor would collect them."""
    host.write(
        "topics.py",
        """
        import dagster as dg
        from batch_assets import BatchTask

        @dg.component_instance
        def topics(context):
            return BatchTask(name="topics")
        """,
    )
    with pytest.raises(Exception) as raised:  # noqa: PT011
        host.load().resolve_asset_graph()
    assert "annotate the function that returns it with `-> BatchTask`" in errors_of(raised.value)


def test_a_task_may_be_python(host: ProjectFolder) -> None:
    host.write(
        "topics.py",
        """
        import dagster as dg
        from batch_assets import BatchTask

        @dg.component_instance
        def topics(context) -> BatchTask:
            return BatchTask(name="topics")
        """,
    )
    assert "topics/topics" in host.asset_names()


def test_two_tasks_of_one_name_do_not_load(host: ProjectFolder) -> None:
    host.task("topics")
    host.write("other/defs.yaml", "type: batch_assets.BatchTask\nattributes:\n  name: topics\n  key_prefix: [b]\n")
    with pytest.raises(Exception) as raised:  # noqa: PT011
        host.load().resolve_asset_graph()
    assert "Two tasks have the name topics" in errors_of(raised.value)


def test_what_is_scaffolded_loads(host: ProjectFolder) -> None:
    target = host.package / "defs" / "topics"
    params = BatchTaskScaffolder.get_scaffold_params()(model="gpt-4.1-nano")
    request = dg.ScaffoldRequest(
        type_name="batch_assets.BatchTask",
        target_path=target,
        scaffold_format="yaml",
        project_root=host.folder,
        params=params,
        append=False,
    )
    BatchTaskScaffolder().scaffold(request)
    assert "topics/topics" in host.asset_names()
    [component] = dg.ComponentTree.for_project(host.package).get_all_components(BatchTask)
    assert declare(component).task.model == "gpt-4.1-nano"


def test_the_version_of_the_code_changes_with_the_question_only(host: ProjectFolder) -> None:
    def version(attributes: str) -> str | None:
        host.task("topics", attributes)
        return host.load().resolve_asset_graph().get(dg.AssetKey(["topics", "topics"])).code_version

    first = version("model: gpt-4.1-nano")
    assert (
        version(
            "model: gpt-4.1-nano\nmax_output_tokens: 7\ndescription: other\nmax_cost_usd: 1\ncomments: {answer: other}"
        )
        == first
    )
    assert version("model: gpt-4.1-mini") != first
    assert version("model: gpt-4.1-nano\nsystem_prompt: other") != first
