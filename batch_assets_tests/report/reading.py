"""A page as a reader gets it: its elements, and its texts by table and by heading."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "wbr"}


class Page(HTMLParser):
    """elements, attributes: all of the page, the latter with their values. tables: rows of cells, the first the head.

    lead: a heading at the top → the texts below it.
    """

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.lead: dict[str, list[str]] = {}
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "dt":
            self.lead[""] = []
        elif tag == "dd":
            list(self.lead.values())[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not self.open or "style" in self.open:
            return
        self.texts.append(data)
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data
        elif self.open[-1] == "dt":
            self.lead[data] = self.lead.pop("")
        elif "dd" in self.open:
            list(self.lead.values())[-1][-1] += data

    def table(self, first_column: str, last_column: str) -> list[dict[str, str]]:
        """The rows of the table with this first and this last column, by column. A row may lack the last cells."""
        [found] = [rows for rows in self.tables if (rows[0][0], rows[0][-1]) == (first_column, last_column)]
        return [dict(zip(found[0], row, strict=False)) for row in found[1:]]
