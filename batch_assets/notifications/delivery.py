"""Sends a message to the URLs of BATCH_ASSETS_NOTIFY. Only this module uses apprise."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from batch_assets.batching.safety.clean_errors import logger_without_secrets
from batch_assets.batching.safety.notification_urls import name_of_url
from batch_assets.batching.safety.outside_text import as_message, printable
from batch_assets.batching.safety.secrets import without_secrets

SECONDS = 12.0  # of one message to one URL
REASON_CHARACTERS = 200
# apprise logs at DEBUG what it sends to which address, and urllib3 the path of each request.
LOGGERS = ("apprise", "urllib3.connectionpool")
# A mention, a link or a mark-up of a chat: `<!channel>`, `@everyone`, `[text](address)`, `||spoiler||`.
HARMLESS = str.maketrans({"<": "‹", ">": "›", "@": "＠", "[": "(", "]": ")", "*": "∗", "~": "∼", "|": "¦", "&": "＆"})

Urgency = Literal["info", "success", "warning", "failure"]


@dataclass(frozen=True)
class Message:
    """title: a line. body: lines of text."""

    title: str
    body: str
    urgency: Urgency = "info"


def clean(text: str) -> str:
    """The text of a message: without secrets, control characters and the mark-up of chats; on its lines."""
    return without_secrets(printable(text, lines=True)).translate(HARMLESS)


def names_of(urls: tuple[str, ...]) -> Mapping[str, str]:
    """How a URL is named → the URL."""
    return {name_of_url(url, number): url for number, url in enumerate(urls, 1)}


def send(url: str, message: Message) -> str | None:
    """Why the URL did not accept the message, in words without secrets; None if it accepted it. Never raises.

    It takes 12 s at most.
    """
    for name in LOGGERS:
        logger_without_secrets(name)
    try:
        import apprise  # here: it takes 0.2 s, and few processes send a message

        asset = apprise.AppriseAsset(app_id="batch_assets", app_desc="batch_assets", app_url="")
        target = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
        if not isinstance(target, apprise.NotifyBase):
            return "apprise does not know such a URL, or a part of it is missing"
        target.overflow_mode = apprise.OverflowMode.SPLIT  # a chat may allow 2,000 characters
        sender = apprise.Apprise(asset=asset)
        sender.add(target)
        result = sender.notify(
            clean(message.body),
            title=clean(message.title),
            notify_type=message.urgency,
            body_format=apprise.NotifyFormat.TEXT,
            timeout=SECONDS,
        )
        if result:
            return None
        reasons = [entry.message for entry in result.logs()]
    except Exception as error:  # of apprise, or of one of its hundred services
        reasons = [f"{type(error).__name__}: {error}"]
    reason = as_message(reasons[0] if reasons else "").strip(" .") or f"no answer within {SECONDS:.0f} s"
    return reason[:REASON_CHARACTERS]
