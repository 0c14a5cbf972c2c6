"""Makes text of others safe to show: titles, answers, messages of an API, names from a database.

Safe text cannot move a cursor, change the direction of the text after it, or hide a part of itself from the reader.
"""

import re

from batch_assets.batching.safety.secrets import without_known_secrets, without_secrets

# Newline, tab, the other control characters that separate, and Unicode's separators of lines and paragraphs.
SEPARATORS = "\\t\\n\\x0b\\x0c\\r\\x85\\u2028\\u2029"
CONTROLS = "\\x00-\\x08\\x0e-\\x1f\\x7f-\\x84\\x86-\\x9f"
# Marks, embeddings, overrides and isolates of direction; zero-width space; invisible operators and fillers;
# byte-order mark; annotations; musical formats; tags. Zero-width joiners stay: emoji and Persian need them.
INVISIBLE = (
    "\\u061c\\u200b\\u200e\\u200f\\u202a-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb"
    "\\U0001d173-\\U0001d17a\\U000e0000-\\U000e007f"
)
# The only emoji that have tags: the flags of England, Scotland and Wales.
FLAG = "\\U0001f3f4\\U000e0067\\U000e0062(?:{})\\U000e007f".format(
    "|".join("".join(f"\\U000e00{ord(letter):02x}" for letter in name) for name in ("eng", "sct", "wls"))
)
UNSAFE = re.compile(
    f"(?P<flag>{FLAG})|(?P<separators>[{SEPARATORS}]+)|(?P<invisible>[{CONTROLS}{INVISIBLE}]+)|(?P<surrogate>[\\ud800-\\udfff])"
)
REPLACEMENT = "\ufffd"


def printable(text: str, *, lines: bool = False) -> str:
    """The text without control, bidirectional and invisible format characters, on one line; with `lines`, on its lines.

    Other characters, of any script, do not change. Half of a surrogate pair becomes U+FFFD.
    """

    def safe(match: re.Match[str]) -> str:
        if match["flag"]:
            return match[0]
        if match["separators"]:
            return "\n" * match[0].count("\n") if lines and "\n" in match[0] else " "
        return REPLACEMENT if match["surrogate"] else ""

    return UNSAFE.sub(safe, text)


def as_message(text: str, *settings: str) -> str:
    """The text of an API, a library or a setting for a log, a table or a terminal: one line, without secrets.

    Secrets of these `settings` are removed, too. See `without_secrets`.
    """
    # in this order: an invisible character may be in the middle of a key
    return without_secrets(printable(text), *settings)


def as_shown(text: str, *, lines: bool = False) -> str:
    """A title or an answer: printable, and without the environment's secrets. URLs in it do not change."""
    return without_known_secrets(printable(text, lines=lines))


def as_code(text: str) -> str:
    """The text as inline code, in which Markdown has no effect: Dagster renders descriptions of checks and events."""
    return f"`{printable(text).replace('`', REPLACEMENT).strip() or REPLACEMENT}`"
