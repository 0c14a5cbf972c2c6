"""A backfill as a user does it: `batch-assets dev`, all days selected, "Launch backfill"; until all have summaries.

    python -m benchmarks.backfill --only month                   30 days of 20 articles: some minutes
    python -m benchmarks.backfill --only month --before REV      the same, and then with the code of a Git revision
    python -m benchmarks.backfill --days 6 --articles 3 --only month    a quick run, to check that it works

The cases: `single`, a day of 20 articles; `month`, 30 days of 20; `year`, 365 days of 5; `large`, 30 days of 20,000
with an engine that answers at once, in a server of its own (for every revision, that of this code). Each has one source
file with all of its days, and a new data folder and Dagster home. The sensor polls every 30 s, as by default.

The times count from the launch. Dagster's daemon looks at backfills every 30 s, so up to 30 s of each time is waiting
for it. CPU seconds count from the launch to the last summaries, and include those of processes that have ended
(`process_tree`): not the start of `batch-assets dev`, not this benchmark. If other programs used much CPU
meanwhile, compare the CPU seconds only. Linux only.
"""

import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from batch_assets.cli.dagster_home.processes import interrupt_on_signals
from benchmarks.backfill_case import Case, Figures, measure

ROOT = Path(__file__).parents[1]
CASES = {
    case.name: case
    for case in (
        Case("single", days=1, articles=20),
        Case("month", days=30, articles=20),
        Case("year", days=365, articles=5),
        Case("large", days=30, articles=20_000, ending=".parquet", is_instant=True),
    )
}
WHERE_FROM = "import batch_assets; print(batch_assets.__file__)"


@dataclass(frozen=True)
class Code:
    """A tree of the code, and what its column is called."""

    name: str
    folder: Path


@click.command()
@click.option("--only", default=",".join(CASES), show_default=True, help="These cases.")
@click.option("--before", metavar="REV", help="Also measure the code of this Git revision.")
@click.option("--days", type=int, help="Days of each case.  [default: see above]")
@click.option("--articles", type=int, help="Articles a day.  [default: see above]")
@click.option("--source", type=click.Choice(["jsonl", "parquet"]), help="Format.  [default: jsonl; large: parquet]")
@click.option("--seconds", default=3600.0, show_default=True, help="Time limit of a case with one code.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to work.  [default: a temporary folder]")
def main(
    only: str,
    before: str | None,
    days: int | None,
    articles: int | None,
    source: str | None,
    seconds: float,
    folder: Path | None,
) -> None:
    """Print a table for each case."""
    interrupt_on_signals()
    changes = {"days": days, "articles": articles, "ending": source and f".{source}"}
    changed = {name: value for name, value in changes.items() if value is not None}
    cases = [replace(_case(name), **changed) for name in only.split(",")]  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        codes = [Code(_name_of("--dirty"), ROOT)]
        if before is not None:
            codes.append(Code(f"before: {_name_of(before)}", _exported(before, work / "before")))
        for code in codes:
            _check_import(code)
        for case in cases:
            _run(case, codes, work, seconds)


def _case(name: str) -> Case:
    if name not in CASES:
        raise click.BadParameter(f"{name} is none of {', '.join(CASES)}.", param_hint="--only")
    return CASES[name]


def _run(case: Case, codes: Sequence[Code], work: Path, seconds: float) -> None:
    source = case.write_source(work)
    size = source.stat().st_size / 1e6
    columns: dict[str, Figures] = {}
    for code in codes:
        click.echo(f"{case.name}: {code.name} …", err=True)
        columns[code.name] = measure(case, code.folder, source, work / "case", seconds)
    source.unlink()
    click.echo(f"\n### {case.name}: {case.days} × {case.articles:,} articles, {case.ending[1:]} of {size:,.1f} MB\n")
    click.echo("\n".join(_table(columns)))


def _table(columns: Mapping[str, Figures]) -> list[str]:
    """Markdown; with two columns, also how many times more the second one is."""
    names = list(columns)
    has_ratio = len(names) == 2
    header = ["", *names, *(["before ÷ now"] if has_ratio else [])]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for label in dict.fromkeys(label for figures in columns.values() for label in figures):
        values = [columns[name].get(label) for name in names]
        if any(value not in (None, "") for value in values):
            cells = [label, *map(_shown, values), *([_ratio(values[1], values[0])] if has_ratio else [])]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _shown(value: float | int | str | None) -> str:
    if value in (None, ""):
        return "-"
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _ratio(more: float | int | str | None, less: float | int | str | None) -> str:
    if isinstance(more, int | float) and isinstance(less, int | float) and more > 0 and less > 0:
        return f"{more / less:.2f}"
    return ""


def _name_of(revision: str) -> str:
    return _git("describe", "--always", "--exclude=*", revision)


def _exported(revision: str, folder: Path) -> Path:
    """The code of the revision in a new folder."""
    archive = folder.with_suffix(".tar")
    _git("archive", "--format=tar", f"--output={archive}", revision)
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    archive.unlink()
    return folder


def _check_import(code: Code) -> None:
    """Stop unless Python, started in the folder, imports the package from there, and not the installed one."""
    found = subprocess.run(
        [sys.executable, "-c", WHERE_FROM], cwd=code.folder, capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(found).is_relative_to(code.folder):
        raise click.ClickException(f"{code.name} would be measured with the code in {found}.")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
