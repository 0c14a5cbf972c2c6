"""The page of `batch-assets compare --html`: one file that loads nothing, for a browser or a printer."""

from pathlib import Path
from typing import Any

from batch_assets.batching.collection.comparison import ComparedArticle, Comparison, Side
from batch_assets.cli.comparison_report import notes, shown_value, status_of, sums
from batch_assets.pages.render import render

TEMPLATE = Path(__file__).with_name("comparison.html")


def page_of(comparison: Comparison) -> str:
    """The page. The template escapes every text of others, and the page's policy forbids scripts and the network."""
    totals = [sums(one) for one in comparison.totals]
    return render(
        TEMPLATE,
        day=comparison.day,
        tasks=comparison.tasks,
        sums=[(name, [one[name] for one in totals]) for name in totals[0]],
        notes=notes(comparison),
        articles=[_article(article) for article in comparison.articles],
    )


def _article(article: ComparedArticle) -> dict[str, Any]:
    return {
        "title": article.title or article.article_id,
        "id": article.article_id,
        "sides": [_side(article, side) for side in article.sides],
    }


def _side(article: ComparedArticle, side: Side) -> dict[str, Any]:
    fields = [
        {"name": name, "value": shown_value(name, value), "differs": name in article.differing}
        for name, value in (side.values or {}).items()
    ]
    usage = "" if side.values is None else f"{side.input_tokens or 0:,} + {side.output_tokens or 0:,} tokens"
    cost = "" if side.values is None else ("unknown cost" if side.usd is None else f"${side.usd:.6f}")
    return {"fields": fields, "status": status_of(side), "reason": side.reason or "", "usage": usage, "cost": cost}
