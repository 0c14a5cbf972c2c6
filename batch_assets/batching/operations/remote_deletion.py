"""Deletes the API's copies of files whose content is in the tables. An id counts only at its own API and account.

OpenAI answers 404 for a file of another account, as for a file that has expired. So a 404 means "deleted" only if the
present key is the one that made the file. Every other file stays in the ledger, and the next prune tries it again.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import openai

from batch_assets.batching.counting import counted
from batch_assets.batching.ledger import files
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.files import RemoteFiles
from batch_assets.batching.operations.prune import PrunePlan
from batch_assets.batching.provider.batches import error_message
from batch_assets.batching.provider.elsewhere import is_at_other_api, other_api_message
from batch_assets.batching.provider.identity import ApiIdentity, identify

# After one of these, the API would answer every other file in the same way.
ERRORS_OF_ALL_FILES = (openai.AuthenticationError, openai.APIConnectionError)


@dataclass
class _Kept:
    """The files that stay, by the reason: at another API (by its name), of another account, not found, not deleted."""

    elsewhere: dict[str, list[RemoteFiles]] = field(default_factory=lambda: defaultdict(list))
    not_ours: list[RemoteFiles] = field(default_factory=list)
    not_found: list[RemoteFiles] = field(default_factory=list)
    failed: list[RemoteFiles] = field(default_factory=list)
    first_error: openai.APIError | None = None


def delete_remote_files(
    database: Database, client: openai.OpenAI, found: PrunePlan, api: ApiIdentity | None = None
) -> list[str]:
    """Delete the API's copies of the files that `found` names. `found` then has what was deleted.

    Returns sentences for the user about the files that stay. `api` is the API of the client; None: the function asks
    it. Raises openai.OpenAIError if the API cannot be identified; then nothing is deleted.
    """
    api = api or identify(client, database.warehouse_id())
    deleted: list[RemoteFiles] = []
    kept = _Kept()
    for remote in found.remote_files:
        if is_at_other_api(remote.api, api):
            kept.elsewhere[remote.api or ""].append(remote)
        elif _is_of_another_account(remote, api):
            kept.not_ours.append(remote)
        elif isinstance(kept.first_error, ERRORS_OF_ALL_FILES):
            kept.failed.append(remote)
        else:
            deleted.append(_delete_files(database, client, remote, api, kept))
    found.remote_files = deleted
    return _sentences(kept, api)


def _is_of_another_account(remote: RemoteFiles, api: ApiIdentity) -> bool:
    """Whether the files belong to another account. A new key of the same organization belongs to the same account."""
    if remote.organization is not None and api.organization is not None:
        return remote.organization != api.organization
    return remote.key_fingerprint not in (None, api.key_fingerprint)


def _delete_files(
    database: Database, client: openai.OpenAI, remote: RemoteFiles, api: ApiIdentity, kept: _Kept
) -> RemoteFiles:
    """Delete the files of a submission, and record it if none is left. Returns the deleted ones; adds others to `kept`.

    Files that the key which made them does not find have expired.
    """
    deleted: list[str] = []
    not_found: list[str] = []
    for file_id in remote.file_ids:
        try:
            (deleted if _delete(client, file_id) else not_found).append(file_id)
        except openai.APIError as error:
            kept.first_error = kept.first_error or error
            left = tuple(other for other in remote.file_ids if other not in deleted)
            kept.failed.append(replace(remote, file_ids=left))
            break
    else:
        if not_found and remote.key_fingerprint != api.key_fingerprint:
            kept.not_found.append(replace(remote, file_ids=tuple(not_found)))
        else:
            files.record_remote_deletion(database, remote.submission_id)
    return replace(remote, file_ids=tuple(deleted))


def _delete(client: openai.OpenAI, file_id: str) -> bool:
    """Delete the file; returns whether the API found it. Raises openai.APIError.

    A 404 that is not JSON, such as the page of a gateway, is no answer of the API.
    """
    try:
        client.files.delete(file_id)
    except openai.NotFoundError as error:
        if isinstance(error.body, str) and error.body == error.response.text.strip():
            raise
        return False
    return True


def _sentences(kept: _Kept, api: ApiIdentity) -> list[str]:
    sentences = [
        other_api_message(f"{_subject(remote)}", name, api, what_then="Set that API, and prune again.")
        for name, remote in kept.elsewhere.items()
    ]
    if kept.not_ours:
        sentences.append(f"{_subject(kept.not_ours)} of another account than that of the present key. Not deleted.")
    if kept.not_found:
        sentences.append(
            f"{_subject(kept.not_found)} not found with the present key: expired, or of another account. The next "
            "prune tries again. Use the key that created them."
        )
    if kept.first_error is not None:
        sentences.append(
            f"{_subject(kept.failed)} not deleted. The API says: {error_message(kept.first_error).rstrip('.')}. Prune "
            "again."
        )
    return sentences


def _subject(remote: Sequence[RemoteFiles]) -> str:
    """`2 files of 2026-01-05 are`"""
    days = sorted({files_of.day for files_of in remote})
    number = files.number_of_remote_files(remote)
    of_days = days[0] if len(days) == 1 else counted(len(days), "day")
    return f"{counted(number, 'file')} of {of_days} {'is' if number == 1 else 'are'}"
