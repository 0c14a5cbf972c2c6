"""Finds words that the code and the documentation no longer use: `make lint` runs it.

    python tools/check_words.py

Prints file, line and word of each, and exits with code 1 if there is one. CONTRIBUTING.md says how to write instead.
"""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
WORDS = re.compile(
    r"\b(?:somebody|nobody|whoever|anybody|flying|the dead|owed|materialis\w*|by hand|mend(?:s|ed|ing)?|dearer"
    r"|drills?|rehears\w*|put back|goes back|word to the sensor)\b",
    re.IGNORECASE,
)
# Separators of words in names: `by_hand` is "by hand".
SEPARATORS = str.maketrans("_-", "  ")
NO_SOURCE = ("data", "build", "site", "dist", "__pycache__")
NOT_CHECKED = (
    "tools/check_words.py",
    "batch_assets/sample/",  # articles
    "batch_assets_tests/nasty_texts.py",  # texts of articles
)
ALLOWED = {
    # the old names of what was renamed
    "CHANGELOG.md": {"owed", "drills", "rehearse"},
    # a status and a column of an earlier version, which migrations read
    "batch_assets/batching/ledger/migrations.py": {"owed"},
    "batch_assets/day_events.py": {"owed"},
    "batch_assets_tests/batching/ledger/first_version.py": {"owed"},
    "batch_assets_tests/batching/ledger/test_migration.py": {"owed"},
    "batch_assets_tests/sensors/test_first_version.py": {"owed"},
    # a word of articles
    "batch_assets/local_api/engines/sentences.py": {"nobody"},
    "batch_assets_tests/local_api/engines/test_sentences.py": {"nobody"},
}
UNRELEASED = "## Unreleased"


def main() -> int:
    found = [line for path in checked_files() for line in words_in(path)]
    for line in found:
        print(line)
    return 1 if found else 0


def checked_files() -> Iterator[str]:
    """The files of the project with sentences. No git: the check also works in a copy that is no checkout."""
    for folder, folders, files in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in NO_SOURCE)
        for name in sorted(files):
            path = Path(folder, name).relative_to(ROOT).as_posix()
            if name.endswith((".py", ".md", ".yaml", ".toml", ".html", ".sql")) and not path.startswith(NOT_CHECKED):
                yield path


def words_in(path: str) -> Iterator[str]:
    """`file:line: word` for each word in the file. Of the changelog, only the entries that are not released count."""
    text = (ROOT / path).read_text(encoding="utf-8")
    is_checked = path != "CHANGELOG.md"
    for number, line in enumerate(text.splitlines(), start=1):
        if path == "CHANGELOG.md" and line.startswith("## "):
            is_checked = line == UNRELEASED
        if not is_checked:
            continue
        for match in WORDS.finditer(line.translate(SEPARATORS)):
            if match.group().lower() not in ALLOWED.get(path, ()):
                yield f"{path}:{number}: {match.group()}"


if __name__ == "__main__":
    sys.exit(main())
