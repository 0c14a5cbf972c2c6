"""The environment variables. Their names, defaults and meanings are a public contract.

They are read once, when the definitions load. `variables` says what they mean. All other configuration is a field of a
resource.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from batch_assets.batching.ingest.errors import SourceError
from batch_assets.batching.ingest.source import parse_columns
from batch_assets.batching.safety.notification_urls import read_urls
from batch_assets.local_api.storage.private import make_private_folder

# Everything that any version put into a data folder: a folder with nothing else counts as ours.
DATA_FOLDER_HOLDS = (
    *("batch_assets.duckdb*", "requests", "results", "local_api", "dagster_home"),
    *("report.html", ".report.html.*"),
)
SAMPLE = Path(__file__).parent / "sample" / "articles.sql"
SAMPLE_FIRST_DAY = "2026-01-05"
DEFAULT_MODEL = "gpt-6-luna"


class SettingError(ValueError):
    """An environment variable has an invalid value; the message has its name."""


@dataclass(frozen=True)
class Settings:
    """The values of the environment variables, checked. Paths are absolute: runs may start in another folder."""

    data_folder: Path
    database: str
    source: str
    first_day: str
    model: str
    max_rounds: int
    max_cost_usd: float | None
    max_cost_usd_per_month: float | None
    max_enqueued_tokens: int | None
    poll_seconds: int
    has_key: bool
    has_remote_api: bool  # OPENAI_API_KEY or OPENAI_BASE_URL is set; otherwise the local Batch API stands in
    days_per_run: int = 30  # of a backfill, and of the sensor's runs
    columns: Mapping[str, str] = field(default_factory=dict)  # the source's name of each of our columns
    notify: tuple[str, ...] = field(default=(), repr=False)  # apprise URLs, with secrets

    def default_day(self, source: str) -> str:
        """The day that a command takes if the user names none: yesterday for a bundled source, which has all days.

        For the user's own source the first day, which the user has set to one that the source has.
        """
        if Path(source).parent != SAMPLE.parent:
            return self.first_day
        return (datetime.now(UTC).date() - timedelta(days=1)).isoformat()

    @property
    def local_api_folder(self) -> Path:
        return self.data_folder / "local_api"

    @property
    def dagster_home(self) -> Path:
        return self.data_folder / "dagster_home"


def make_data_folder(settings: Settings) -> None:
    """Make the data folder, for this user only (0700). A folder of an earlier version, open to others, becomes private.

    Does not change a folder that has other files. Raises OSError.
    """
    make_private_folder(settings.data_folder, holds=DATA_FOLDER_HOLDS)


def read_settings() -> Settings:
    """Read the environment variables. Raises SettingError."""
    data_folder = Path(_text("BATCH_ASSETS_DATA_DIR", "data")).expanduser().absolute()
    has_remote_api = bool(_text("OPENAI_API_KEY", "") or _text("OPENAI_BASE_URL", ""))
    return Settings(
        data_folder=data_folder,
        database=_database(data_folder),
        source=_text("BATCH_ASSETS_SOURCE", str(SAMPLE)),
        first_day=_day("BATCH_ASSETS_START_DATE", SAMPLE_FIRST_DAY),
        model=_text("BATCH_ASSETS_MODEL", DEFAULT_MODEL),
        max_rounds=_number("BATCH_ASSETS_MAX_ROUNDS", 3),
        max_cost_usd=_amount("BATCH_ASSETS_MAX_COST_USD"),
        max_cost_usd_per_month=_amount("BATCH_ASSETS_MAX_COST_USD_PER_MONTH"),
        max_enqueued_tokens=_number("BATCH_ASSETS_MAX_ENQUEUED_TOKENS", 0) or None,
        # the local Batch API may be asked as often as the daemon evaluates sensors: every 5 s
        poll_seconds=_number("BATCH_ASSETS_POLL_SECONDS", 30 if has_remote_api else 4),
        has_key=bool(_text("OPENAI_API_KEY", "")),
        has_remote_api=has_remote_api,
        days_per_run=_number("BATCH_ASSETS_DAYS_PER_RUN", 30),
        columns=_columns("BATCH_ASSETS_COLUMNS"),
        notify=_urls("BATCH_ASSETS_NOTIFY"),
    )


def _urls(name: str) -> tuple[str, ...]:
    try:
        return read_urls(_text(name, ""))
    except ValueError as error:
        raise SettingError(f"{name}: {error}") from None


def _columns(name: str) -> dict[str, str]:
    try:
        return parse_columns(_text(name, ""))
    except SourceError as error:
        raise SettingError(f"{name}: {error}") from None


def _database(data_folder: Path) -> str:
    named = _text("BATCH_ASSETS_DUCKDB", "")
    if not named:
        return str(data_folder / "batch_assets.duckdb")
    is_url = "://" in named or named.startswith("md:")
    return named if is_url else str(Path(named).expanduser().absolute())


def _text(name: str, default: str) -> str:
    return os.environ.get(name, "").strip() or default


def _amount(name: str) -> float | None:
    text = _text(name, "")
    if not text:
        return None
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not 0 <= amount < float("inf"):
        raise SettingError(f"{name} is {text!r}; it must be an amount of US dollars such as 2.50.")
    return amount


def _number(name: str, default: int) -> int:
    text = _text(name, "")
    if not text:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise SettingError(f"{name} is {text!r}; it must be a whole number of at least 1.")
    return int(text)


def _day(name: str, default: str) -> str:
    text = _text(name, default)
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise SettingError(f"{name} is {text!r}; it must be a day such as {default}.") from None
