"""Fills in the template of a page."""

from pathlib import Path

import jinja2

from batch_assets.batching.safety.outside_text import as_shown

FOLDER = Path(__file__).parent


def render(template: Path, **values: object) -> str:
    """The page. The filter `shown` is for texts of others: they have no secrets and no invisible characters."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, FOLDER]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = lambda text: as_shown(str(text), lines=True)
    return environment.get_template(template.name).render(**values)
