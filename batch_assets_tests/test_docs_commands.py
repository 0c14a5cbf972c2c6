"""The commands, the settings and the tasks on the pages exist: each is parsed by what reads it."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

import batch_assets
from batch_assets.cli.main import main
from batch_assets.component import BatchTask
from batch_assets.settings import read_settings
from batch_assets.variables import PIPELINE, PROCESSES
from batch_assets_tests.test_docs import load_tool, rows_of

ROOT = Path(batch_assets.__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", "AGENTS.md", *(f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md")))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)((?: {4}.*\n|\n)+)")
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
HERE_DOCUMENT = re.compile(r"<<'(\w+)'\n.*?\n\1$", re.MULTILINE | re.DOTALL)
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
COMMANDS = ("batch-assets", ".venv/bin/batch-assets")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_of(page: str, *languages: str) -> list[str]:
    return [block for language, block in FENCED.findall(text_of(page)) if language in languages]


def lines_of(page: str) -> Iterator[str]:
    """The lines of the page that a user types: of `sh` and indented blocks, and after `$ ` in those of a console."""
    for block in blocks_of(page, "sh"):
        yield from HERE_DOCUMENT.sub("", block).replace("\\\n", "").splitlines()
    for block in blocks_of(page, "console"):
        yield from (line[2:] for line in block.replace("\\\n", "").splitlines() if line.startswith("$ "))
    for block in INDENTED.findall(FENCED.sub("", text_of(page))):
        yield from (line.strip() for line in block.splitlines())


def commands_in(line: str) -> Iterator[list[str]]:
    """The words of each command of the line that is `batch-assets`, `make` or a script of ours."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set("();<>|&"):
            words.append(word)
            continue
        while words and re.fullmatch(r"\w+=.*", words[0]):
            words.pop(0)
        if words:
            yield words
        words = []


def mistake(words: list[str], *, is_whole: bool = True) -> str | None:
    """What is wrong with a command of ours; None for other commands. One that is not whole may lack arguments."""
    program, arguments = words[0], words[1:]
    if program == "make":
        unknown = [target for target in arguments if target not in TARGETS and "=" not in target]
        return f"no such target: {unknown}" if unknown else None
    if Path(program).name in ("python", "python3") and arguments[:1] and arguments[0].startswith(("docs/", "tools/")):
        return None if (ROOT / arguments[0]).is_file() else "no such script"
    if arguments[:1] == ["-m"] and arguments[1].startswith("benchmarks."):
        return None if (ROOT / arguments[1].replace(".", "/")).with_suffix(".py").is_file() else "no such benchmark"
    if program not in COMMANDS or not arguments:
        return None
    group = click.Context(main, info_name="batch-assets")
    command = main.get_command(group, arguments[0])
    if command is None:
        return None if arguments[0] in ("COMMAND", "--help", "--version", "…") else "no such command"
    try:
        command.make_context(arguments[0], arguments[1:], parent=group)
    except click.MissingParameter as error:
        return error.format_message() if is_whole else None
    except click.exceptions.Exit:
        return None  # --help
    except click.ClickException as error:
        return error.format_message()
    return None


@pytest.mark.parametrize("page", PAGES)
def test_each_command_in_a_block_has_the_arguments_that_it_needs_and_no_others(page: str) -> None:
    wrong = {
        line: found
        for line in lines_of(page)
        if re.search(r"\b(batch-assets|make|python3?)\s", line) and "[OPTIONS]" not in line
        for words in commands_in(line)
        if (found := mistake(words))
    }
    assert not wrong


@pytest.mark.parametrize("page", PAGES)
def test_each_command_in_a_sentence_exists_with_its_options(page: str) -> None:
    wrong = {}
    for code in INLINE.findall(FENCED.sub("", text_of(page))):
        words = " ".join(code.split()).replace("[", "").replace("]", "").replace("…", "").split()
        if words and (found := mistake([*words], is_whole=False)) and not found.endswith("requires an argument."):
            wrong[code] = found
    assert not wrong


def test_a_wrong_command_is_noticed() -> None:
    for line in (
        "batch-assets sumarize",
        "batch-assets cancel",
        "batch-assets cancel 2026-01-05 --everything",
        "BATCH_ASSETS_DATA_DIR=data-2 .venv/bin/batch-assets prune --keep-days many && ls",
        "cd press && make everything",
        "python tools/none.py",
        "python -m benchmarks.none",
    ):
        assert [found for words in commands_in(line) if (found := mistake(words))], line
    assert not [words for words in commands_in("echo batch-assets; ls data") if mistake(words)]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page, "yaml")])
def test_each_task_in_yaml_is_one_that_loads(page: str) -> None:
    """A block without `attributes:` shows some fields of a task with a schema."""
    schema = {"output_schema": yaml.safe_load(blocks_of("README.md", "yaml")[0])["attributes"]["output_schema"]}
    for block in blocks_of(page, "yaml"):
        found = yaml.safe_load(block)
        attributes = found.get("attributes", {**schema, **found})
        task = BatchTask.resolve_from_yaml(yaml.safe_dump({"name": "of_the_page", **attributes}))
        assert isinstance(task, BatchTask)
        task.declare()


def test_the_page_of_the_configuration_is_what_the_code_says() -> None:
    page = load_tool("tools/write_configuration.py").page()
    assert text_of("docs/configuration.md") == page, "run `python tools/write_configuration.py`"


def test_each_environment_variable_of_the_code_is_described_and_no_other() -> None:
    described = {name for variable in (*PIPELINE, *PROCESSES) for name in variable.names}
    settings = (ROOT / "batch_assets" / "settings.py").read_text(encoding="utf-8")
    assert {name for variable in PIPELINE for name in variable.names} == set(
        re.findall(r'"((?:OPENAI|BATCH_ASSETS)_\w+)"', settings)
    )
    in_code = {
        name
        for path in (ROOT / "batch_assets").rglob("*.py")
        for name in re.findall(r'"(BATCH_ASSETS_[A-Z_]+[A-Z])"', path.read_text(encoding="utf-8"))
    }
    assert in_code <= described, "describe it in batch_assets/variables.py"


def test_the_defaults_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in PIPELINE:
        for name in variable.names:
            monkeypatch.delenv(name, raising=False)
    settings = read_settings()
    said = {name: variable.default for variable in PIPELINE for name in variable.names}
    assert said["BATCH_ASSETS_MODEL"] == f"`{settings.model}`"
    assert said["BATCH_ASSETS_DATA_DIR"] == f"`{settings.data_folder.name}`"
    assert said["BATCH_ASSETS_START_DATE"] == f"the sample's: `{settings.first_day}`"
    assert said["BATCH_ASSETS_MAX_ROUNDS"] == str(settings.max_rounds)
    assert said["BATCH_ASSETS_DAYS_PER_RUN"] == str(settings.days_per_run)
    assert said["BATCH_ASSETS_POLL_SECONDS"] == f"30; {settings.poll_seconds} with the local Batch API"


def test_the_readme_says_of_each_setting_what_the_configuration_says() -> None:
    shown = {
        name: [re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", cell) for cell in cells]
        for name, cells in rows_of("README.md", "Settings").items()
    }
    for variable in PIPELINE:
        first = "`, `".join(variable.names)
        assert [cell.rstrip("| ") for cell in shown[first]] == [variable.meaning, variable.default]
