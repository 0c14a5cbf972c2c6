"""The URLs of BATCH_ASSETS_NOTIFY: what in them is a secret, and how they are named without it.

Almost everything in an apprise URL may be a secret, the host too: slack://TOKEN_A/TOKEN_B/TOKEN_C.
"""

import re
from collections.abc import Iterator
from urllib.parse import unquote, unquote_plus

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
HOST = re.compile(r"localhost|[\d.]+|\[[0-9a-f:.]+\]|(?:[a-z0-9-]+\.)+[a-z]{2,}")
# A word of lower-case letters, such as `notifications`, may be in any text.
WORD = re.compile(r"[/#]?[a-z_-]{0,15}")


def read_urls(text: str) -> tuple[str, ...]:
    """The URLs, which white space separates. Raises ValueError: the message has none of them."""
    urls = tuple(text.split())
    for number, url in enumerate(urls, 1):
        if not URL.fullmatch(url):
            raise ValueError(
                f"its entry {number} is no URL. It must be apprise URLs, separated by white space, such as "
                "json://host/path or slack://…"
            )
    return urls


def name_of_url(url: str, number: int) -> str:
    """The URL in a sentence: its scheme, which is no secret, and its place in the variable."""
    return f"{url.partition('://')[0].lower()}://… (URL {number})"


def secrets_of_url(url: str) -> Iterator[str]:
    """Texts that must not be shown: what follows the scheme, the path, and each part that may be a token."""
    rest = url.partition("://")[2]
    before_query, _, query = rest.partition("?")
    user, _, after_user = before_query.rpartition("@")
    host, slash, path = after_user.partition("/")
    parts = [*host.split(":"), *path.split("/"), *re.split("[&=]", query)]
    found = [text for text in parts if not HOST.fullmatch(text.lower()) and not WORD.fullmatch(text)]
    found += [user, *user.split(":")]
    if not WORD.fullmatch(path):
        found.append(slash + path)
    if path or query:
        found += [rest, before_query]
    for text in found:
        yield from {text, unquote(text), unquote_plus(text)}
