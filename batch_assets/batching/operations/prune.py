"""How long things are kept: what of old days can go, and its going. Nothing is deleted that a day still needs.

A day is *done* if it has summaries, of all articles and requests that it has now, none of them is pending, in flight or
held by a cancellation, and none of its batches is out. Of days that aren't, nothing is touched, however old they are.
"""

import gzip
import os
import shutil
import uuid
import zlib
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path

import duckdb
import openai

from batch_assets.batching.ledger import files
from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.files import RemoteFiles
from batch_assets.batching.provider.elsewhere import elsewhere_message, is_elsewhere
from batch_assets.batching.provider.identity import ApiIdentity, identify

# Texts and bookkeeping of single articles. The ledger, the answers and `summaries` stay.
TABLES_OF_A_DAY = ("raw_articles", "rejected_article", "batch_request")
PACKED = ".gz"

OLD_AND_DONE = f"""
    SELECT DISTINCT partition_date FROM summaries
    WHERE partition_date < CAST($before AS DATE)
    EXCEPT SELECT partition_date FROM summaries WHERE status IN ('pending', 'in_flight', 'cancelled')
    -- articles read again, or answers of another prompt, since the summaries were written
    EXCEPT SELECT partition_date FROM raw_articles ANTI JOIN summaries USING (partition_date, article_id)
    EXCEPT SELECT partition_date FROM batch_request ANTI JOIN summaries USING (partition_date, article_id, custom_id)
    EXCEPT ({files.DAYS_IN_FLIGHT})
    ORDER BY partition_date
"""


@dataclass(frozen=True)
class RetentionPolicy:
    """What goes when. Days are counted from a day's own date; None: never.

    Result files are packed after `compress_after_days`. After `keep_days` request and result files are deleted; with
    `tables`, the day's articles and its lines in `batch_request` and `quarantined_line` too; with `answers`, also
    answers and failures that no day with requests needs any more, so that a day that comes back is paid for again;
    with `remote`, OpenAI's copies of the files.
    """

    compress_after_days: int | None = 7
    keep_days: int = 90
    tables: bool = False
    answers: bool = False
    remote: bool = False


@dataclass
class PrunePlan:
    """What can go. Paths are absolute; `rows` are by table."""

    days: list[str] = field(default_factory=list)
    bytes_to_delete: int = 0
    to_pack: list[Path] = field(default_factory=list)
    to_delete: list[Path] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    remote_files: list[RemoteFiles] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """What goes, for people: an entry for each kind of thing."""
        remote = sum(len(one.file_ids) for one in self.remote_files)
        said = [
            (len(self.to_delete), f"request and result files, {self.bytes_to_delete / 1e6:,.1f} MB"),
            (len(self.to_pack), "result files that are packed"),
            *((rows, f"rows of {table}") for table, rows in self.rows.items()),
            (remote, "files at OpenAI"),
        ]
        return [f"{count:,} {what}" for count, what in said if count]


def plan_pruning(database: Database, *, data_folder: Path, policy: RetentionPolicy, today: date) -> PrunePlan:
    """What has outlived its life today. Changes nothing."""
    with database.reading() as connection:
        return _find(connection, data_folder, policy, today)


def prune(database: Database, *, data_folder: Path, policy: RetentionPolicy, today: date) -> PrunePlan:
    """Pack and delete what `plan_pruning` finds, but for what is at OpenAI. Returns what went."""
    packable = plan_pruning(database, data_folder=data_folder, policy=policy, today=today).to_pack
    for path in packable:  # takes a while, so others have the database meanwhile
        with suppress(FileNotFoundError):  # another prune, at the same time, was faster
            _pack(path)
    with database.writing() as connection:
        found = _find(connection, data_folder, policy, today)
        # first the files: a ledger may name one that is gone, but no later prune finds one that no ledger names
        for path in found.to_delete:
            path.unlink(missing_ok=True)
        with transaction(connection):
            for path in packable:
                _rename(connection, data_folder, path, PACKED)
            for path in found.to_delete:
                _rename(connection, data_folder, path, None)
            if policy.tables:
                _delete_rows(connection, found.days, answers=policy.answers)
        for path in packable:
            path.unlink(missing_ok=True)
    found.to_pack = packable
    return found


def delete_remote_files(
    database: Database, client: openai.OpenAI, found: PrunePlan, api: ApiIdentity | None = None
) -> list[str]:
    """Delete the API's copies of files whose content is in the tables. `found` then has what went.

    Returns, for people, what stays and why: files at another API or of another account, where an id may mean another
    file. `api` is whom the client talks to; None: it is asked. Raises openai.OpenAIError.
    """
    api = api or identify(client, database.warehouse_id())
    went: list[RemoteFiles] = []
    elsewhere: dict[str, list[RemoteFiles]] = defaultdict(list)
    not_ours: list[RemoteFiles] = []
    not_found: list[RemoteFiles] = []
    for remote in found.remote_files:
        if is_elsewhere(remote.api, api):
            elsewhere[remote.api or ""].append(remote)
            continue
        if _is_of_another_account(remote, api):
            not_ours.append(remote)
            continue
        deleted = tuple(file_id for file_id in remote.file_ids if _delete(client, file_id))
        left = tuple(file_id for file_id in remote.file_ids if file_id not in deleted)
        if left and remote.key_fingerprint != api.key_fingerprint:
            not_found.append(replace(remote, file_ids=left))
        else:  # of the account that made them, those that are left expired
            files.record_remote_deletion(database, remote.submission_id)
        went.append(replace(remote, file_ids=deleted))
    found.remote_files = went
    sentences = [
        elsewhere_message(f"{_count(kept)} are", name, api, what_then="Prune again when the API is that one.")
        for name, kept in elsewhere.items()
    ]
    if not_ours:
        sentences.append(f"{_count(not_ours)} are of another account than that of the present key, and stay.")
    if not_found:
        sentences.append(
            f"{_count(not_found)} are not found with the present key: they expired, or are another account's."
        )
    return sentences


def _is_of_another_account(remote: RemoteFiles, api: ApiIdentity) -> bool:
    """As far as it is known whose they are: a new key of the same organization is no other account."""
    if remote.organization is not None and api.organization is not None:
        return remote.organization != api.organization
    return remote.key_fingerprint not in (None, api.key_fingerprint)


def _delete(client: openai.OpenAI, file_id: str) -> bool:
    """Whether the file was there."""
    try:
        client.files.delete(file_id)
    except openai.NotFoundError:
        return False
    return True


def _count(remote: Sequence[RemoteFiles]) -> str:
    days = sorted({one.day for one in remote})
    return f"{sum(len(one.file_ids) for one in remote):,} files of {days[0] if len(days) == 1 else f'{len(days)} days'}"


def _find(connection: duckdb.DuckDBPyConnection, data_folder: Path, policy: RetentionPolicy, today: date) -> PrunePlan:
    found = PrunePlan(_done_before(connection, today, policy.keep_days))
    request_files = connection.execute(
        "SELECT path FROM batch_request_file WHERE partition_date IN (SELECT unnest($days)::DATE)",
        {"days": found.days},
    ).fetchall()
    old = _existing(data_folder, [*(path for (path,) in request_files), *files.result_files(connection, found.days)])
    found.to_delete = sorted([*old, *_left_behind(old)])
    if policy.compress_after_days is not None:
        days = _done_before(connection, today, policy.compress_after_days)
        existing = _existing(data_folder, files.result_files(connection, days))
        going = {*found.to_delete, *_left_behind(existing)}
        found.to_delete = sorted(going)
        found.to_pack = [path for path in existing if path.suffix != PACKED and path not in going]
    found.bytes_to_delete = sum(path.stat().st_size for path in found.to_delete)
    if policy.tables:
        found.rows = _count_rows(connection, found.days, answers=policy.answers)
    if policy.remote:
        found.remote_files = files.remote_files(connection, found.days)
    return found


def _done_before(connection: duckdb.DuckDBPyConnection, today: date, days: int) -> list[str]:
    before = (today - timedelta(days=days)).isoformat()
    rows = connection.execute(OLD_AND_DONE, {"before": before, "open_states": files.open_states()}).fetchall()
    return [day.isoformat() for (day,) in rows]


def _existing(data_folder: Path, paths: Sequence[str | None]) -> list[Path]:
    return sorted(path for name in paths if name is not None and (path := data_folder / name).exists())


def _left_behind(paths: Sequence[Path]) -> list[Path]:
    """Plain files beside packed ones that the ledger names already: their prune was killed before they went."""
    return [plain for path in paths if path.suffix == PACKED and (plain := path.with_suffix("")).exists()]


def _pack(path: Path) -> None:
    """Write the packed file beside the plain one; it appears whole or not at all. Raises OSError."""
    packed = path.with_name(path.name + PACKED)
    if packed.exists() and _is_packed_whole(path, packed):  # of a prune that was killed
        return
    unfinished = path.with_name(f".{packed.name}.{uuid.uuid4().hex}")  # its own: there may be two prunes at once
    try:
        with path.open("rb") as plain, unfinished.open("wb") as file:
            with gzip.GzipFile(path.name, "wb", fileobj=file) as packer:
                shutil.copyfileobj(plain, packer, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        if not _is_packed_whole(path, unfinished):
            raise OSError(f"{path} could not be packed: read back, it is not the same. It was left as it is.")
        unfinished.replace(packed)
    finally:
        unfinished.unlink(missing_ok=True)


def _is_packed_whole(path: Path, packed: Path) -> bool:
    """Whether the packed file, read back, is the plain one."""
    try:
        with path.open("rb") as plain, gzip.open(packed) as unpacked:
            while block := plain.read(1 << 20):
                if unpacked.read(len(block)) != block:
                    return False
            return not unpacked.read(1)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return False


def _rename(connection: duckdb.DuckDBPyConnection, data_folder: Path, path: Path, ending: str | None) -> None:
    """Let the ledger name the file with this ending added; None: it is gone."""
    old = path.relative_to(data_folder).as_posix()
    files.rename_result_file(connection, old, None if ending is None else old + ending)


def _count_rows(connection: duckdb.DuckDBPyConnection, days: list[str], *, answers: bool) -> dict[str, int]:
    counts = {}
    for table, where in _going(answers=answers).items():
        row = connection.execute(f"SELECT count(*) FROM {table} WHERE {where}", {"days": days}).fetchone()
        counts[table] = int(row[0]) if row else 0
    return counts


def _delete_rows(connection: duckdb.DuckDBPyConnection, days: list[str], *, answers: bool) -> None:
    for table, where in reversed(_going(answers=answers).items()):  # the answers while it is known whose they are
        connection.execute(f"DELETE FROM {table} WHERE {where}", {"days": days})
    connection.execute(
        """
        INSERT INTO pruned_day (partition_date)
        SELECT unnest($days)::DATE EXCEPT SELECT partition_date FROM pruned_day
        """,
        {"days": days},
    )


def _going(*, answers: bool) -> dict[str, str]:
    """Which rows of which table go: SQL conditions with the parameter `days`."""
    of_the_days = "partition_date IN (SELECT unnest($days)::DATE)"
    of_their_batches = f"batch_id IN ({files.BATCHES_OF_DAYS})"
    going = {**dict.fromkeys(TABLES_OF_A_DAY, of_the_days), "quarantined_line": of_their_batches}
    if answers:
        needed = f"SELECT custom_id FROM batch_request WHERE NOT {of_the_days}"
        going |= dict.fromkeys(("completion", "failed_request"), f"{of_their_batches} AND custom_id NOT IN ({needed})")
    return going
