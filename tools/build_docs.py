"""Builds the documentation as a site: `make docs` runs it.

    python tools/build_docs.py

The Markdown files of the repository are the pages, as GitHub shows them. Their copies in build/docs have links that
lead to pages of the site; other files that a page links to are copied into the site. Zensical builds it into site/.
Ends with an error if a link or its anchor leads nowhere, or if a page loads anything from another server.
"""

import os
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = "docs/"
STYLE = "docs/site.css"
# Pages outside of docs/ → their names in the site.
OTHER_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "AGENTS.md": "agents.md",
    "CHANGELOG.md": "changes.md",
    "batch_assets/sample/README.md": "sample.md",
}
LOADS_FROM_ELSEWHERE = re.compile(
    rb'<(?:script|img|iframe|link rel="?stylesheet"?)[^>]*\s(?:src|href)="?((?:https?:)?//[^">\s]+)'
)
LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)\s#]+)")


class LinkError(ValueError):
    """A link leads to no file of the repository; the message has page, line and link."""


def main() -> int:
    staged = ROOT / "build" / "docs"
    shutil.rmtree(staged, ignore_errors=True)
    try:
        stage(ROOT, staged)
    except LinkError as error:
        print(error, file=sys.stderr)
        return 1
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    if code := subprocess.run(command, cwd=ROOT, check=False).returncode:
        return code
    loaded = loaded_from_elsewhere(ROOT / "site")
    for line in loaded:
        print(line, file=sys.stderr)
    return 1 if loaded else 0


def stage(root: Path, staged: Path) -> None:
    """Write the pages, their style, and what they link to into the folder `staged`. Raises LinkError."""
    write(staged / place(STYLE), (root / STYLE).read_bytes())
    for page in pages(root):
        linked: list[str] = []
        text = with_links_of_the_site(page, (root / page).read_text(encoding="utf-8"), root, linked.append)
        write(staged / place(page), text.encode())
        for path in linked:
            if path not in pages(root):
                write(staged / place(path), (root / path).read_bytes())


def pages(root: Path) -> list[str]:
    """The paths of all pages in the repository."""
    return [*OTHER_PAGES, *sorted(path.relative_to(root).as_posix() for path in (root / DOCS).glob("*.md"))]


def place(path: str) -> str:
    """Where a file of the repository is in the site."""
    if path in OTHER_PAGES:
        return OTHER_PAGES[path]
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    return f"files/{path}" if Path(path).suffix else f"files/{path}.txt"


def with_links_of_the_site(page: str, text: str, root: Path, linked: Callable[[str], object]) -> str:
    """The page with its relative links changed, except in blocks of code. Calls `linked` with each file.

    Raises LinkError.
    """

    def changed(line: str, number: int) -> str:
        def replace(match: re.Match[str]) -> str:
            path = posixpath.normpath(posixpath.join(posixpath.dirname(page), match[2]))
            if path.startswith("..") or not (root / path).is_file():
                raise LinkError(f"{page}, line {number}: the link {match[2]} leads to no file of the repository.")
            linked(path)
            return match[1] + os.path.relpath(place(path), posixpath.dirname(place(page)) or ".")

        return LINK.sub(replace, line)

    lines, in_code = [], False
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        lines.append(line if in_code else changed(line, number))
    return "".join(lines)


def loaded_from_elsewhere(site: Path) -> list[str]:
    """A sentence for each script, style or image that a page of the site loads from another server."""
    return [
        f"{page.relative_to(site)} loads {address.decode()}, which is on another server."
        for page in sorted(site.rglob("*.html"))
        for address in LOADS_FROM_ELSEWHERE.findall(page.read_bytes())
    ]


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


if __name__ == "__main__":
    sys.exit(main())
