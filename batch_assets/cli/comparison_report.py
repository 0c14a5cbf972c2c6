"""What `batch-assets compare` prints: the answers of two tasks side by side, and their sums."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from batch_assets.batching.collection.comparison import VECTOR, ComparedArticle, Comparison, Side, Totals
from batch_assets.batching.counting import counted
from batch_assets.batching.safety.outside_text import printable
from batch_assets.cli.terminal import answer_as_text, as_rich_text

DIFFERS = "≠"


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print a table of the articles, a table of the sums, and the share of equal answers."""
    if comparison.articles:
        console.print(_articles(comparison))
    console.print(_sums(comparison))
    for line in notes(comparison):
        console.print(Text(line), soft_wrap=True)


def _articles(comparison: Comparison) -> Table:
    table = Table(show_lines=True, title=f"{comparison.day}", title_justify="left", expand=True)
    table.add_column("article", ratio=1, overflow="fold")
    for task in comparison.tasks:
        table.add_column(Text(printable(task)), ratio=2, overflow="fold")
    for article in comparison.articles:
        cells = [_cell(comparison, article, side) for side in article.sides]
        table.add_row(as_rich_text(article.title or article.article_id), *cells)
    return table


def _cell(comparison: Comparison, article: ComparedArticle, side: Side) -> Text:
    if side.values is None:
        return Text.assemble((status_of(side), "red"), as_rich_text(f": {side.reason}" if side.reason else ""))
    text = Text()
    for name, value in side.values.items():
        differs = name in article.differing
        mark = f"{DIFFERS} " if differs and len(side.values) > 1 else ""
        label = "" if len(side.values) == 1 else f"{printable(name)}: "
        text.append(("\n" if text else "") + mark + label, "bold yellow" if differs else "bold")
        text.append_text(as_rich_text(shown_value(name, value)))
    return text


def status_of(side: Side) -> str:
    """The status in words."""
    return "not an article of it" if side.status is None else side.status.replace("_", " ")


def shown_value(name: str, value: Any) -> str:
    """A value of a field as text; of a vector how many numbers it has."""
    return answer_as_text(value, is_vector=name == VECTOR and isinstance(value, int))


def sums(totals: Totals) -> Mapping[str, str]:
    """The sums of a task as text, by their names."""
    return {
        "model": ", ".join(totals.models) or "none",
        "articles": f"{totals.articles:,}",
        "answered": f"{totals.answered:,}",
        "failed": f"{totals.failed:,}",
        "input tokens": f"{totals.input_tokens:,}",
        "output tokens": f"{totals.output_tokens:,}",
        "cost": _usd(totals.usd, totals),
        "cost of 1,000 articles": _usd(totals.usd_per_1000_articles, totals),
    }


def _usd(usd: float | None, totals: Totals) -> str:
    if usd is None:
        return "unknown" if totals.answered else "–"
    return f"${usd:.6f}" + (" (simulated)" if totals.is_simulated else "")


def _sums(comparison: Comparison) -> Table:
    table = Table(title=None)
    table.add_column("")
    for task in comparison.tasks:
        table.add_column(Text(printable(task)), justify="right")
    a, b = (sums(totals) for totals in comparison.totals)
    for name in a:
        table.add_row(name, as_rich_text(a[name]), as_rich_text(b[name]))
    return table


def notes(comparison: Comparison) -> list[str]:
    """What the sums need to be understood."""
    lines = []
    if comparison.equal_share is not None:
        fields = "" if len(comparison.fields) == 1 else f" in the fields {', '.join(sorted(comparison.common))}"
        lines.append(
            f"{comparison.equal:,} of {comparison.both_answered:,} answers that both have are equal{fields}: "
            f"{comparison.equal_share:.1%}."
        )
    elif comparison.both_answered:
        lines.append("The answers are not compared: the tasks have no field in common, or their answers are vectors.")
    for task, totals in zip(comparison.tasks, comparison.totals, strict=True):
        if totals.synchronous:
            lines.append(
                f"{counted(totals.synchronous, 'answer')} of {task} at the standard price, from outside of a batch."
            )
    if len(comparison.articles) < max(totals.articles for totals in comparison.totals):
        lines.append(f"The first {counted(len(comparison.articles), 'article')} shown; --limit shows more.")
    return [printable(line) for line in lines]


def as_object(comparison: Comparison) -> dict[str, Any]:
    """All of it, for JSON."""
    return {
        "day": comparison.day,
        "tasks": [
            {"task": task, **vars(totals), "usd_per_1000_articles": totals.usd_per_1000_articles}
            for task, totals in zip(comparison.tasks, comparison.totals, strict=True)
        ],
        "fields": comparison.fields,
        "compared_fields": sorted(comparison.common),
        "both_answered": comparison.both_answered,
        "equal": comparison.equal,
        "equal_share": comparison.equal_share,
        "articles": [
            {
                "article_id": article.article_id,
                "title": article.title,
                "differing": sorted(article.differing),
                "answers": [vars(side) for side in article.sides],
            }
            for article in comparison.articles
        ],
    }
