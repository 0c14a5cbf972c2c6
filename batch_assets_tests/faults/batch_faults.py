"""Faults of the account and of single batches: what the proxy shows of a batch that its server has run.

The server executes each line once. What counts as billed is what is left after these faults: a line that the proxy
shows as an account error was not executed, as far as the account can see.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

EMPTY_FILE, SHORT_FILE, HTML_PAGE = "a file of 0 bytes", "a file without its last line", "a page of HTML"
LATE_FILES = (EMPTY_FILE, SHORT_FILE, HTML_PAGE)
PAGE = b"<html><body><h1>We are checking your connection</h1></body></html>"


class AccountError(NamedTuple):
    """An error of the account, as OpenAI words it. `status`: of the HTTP answer, or of a line."""

    status: int
    code: str | None
    message: str

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": "invalid_request_error", "param": None, "code": self.code}}

    @property
    def of_batch(self) -> dict[str, Any]:
        """The same as the error of a batch that failed as a whole."""
        return {"code": self.code, "message": self.message, "line": None, "param": None}


BILLING = AccountError(400, "billing_hard_limit_reached", "Billing hard limit has been reached.")
WRONG_KEY = AccountError(401, "invalid_api_key", "Incorrect API key provided.")
ACCOUNT_ERRORS = (
    WRONG_KEY,
    AccountError(403, None, "You have insufficient permissions for this operation."),
    AccountError(429, "insufficient_quota", "You exceeded your current quota, please check your plan and billing."),
    BILLING,
)


@dataclass
class BatchFaults:
    """The faults of one batch.

    lines: two thirds of its lines have this error in place of an answer; with `fails_all_lines`, all have it.
    late: what the next downloads of its output file return, in this order; after them the true file.
    is_stuck: it is `finalizing`, and cannot be cancelled.
    runs_for_seconds: after its creation; 0: as long as other batches.
    runs_until: until then (in Unix seconds) it is `in_progress`.
    """

    name: str = ""
    lines: AccountError | None = None
    fails_all_lines: bool = False
    late: list[str] = field(default_factory=list)
    is_stuck: bool = False
    runs_for_seconds: float = 0.0
    runs_until: float = 0.0


class Results(NamedTuple):
    """The result files of a batch, as lines. `executed`: the lines of the output file, which are billed."""

    executed: list[dict[str, Any]]
    errors: list[dict[str, Any]]

    @property
    def usage(self) -> dict[str, int]:
        usages = [line["response"]["body"]["usage"] for line in self.executed]
        used = {
            "input_tokens": sum(usage["prompt_tokens"] for usage in usages),
            "output_tokens": sum(usage["completion_tokens"] for usage in usages),
        }
        return {**used, "total_tokens": sum(used.values())}


def split_results(lines: Iterable[dict[str, Any]], faults: BatchFaults) -> Results:
    """The lines that the batch executed, and those that failed with an error of the account: always the same ones."""
    results, error = Results([], []), faults.lines
    for line in lines:
        if error is None or (not faults.fails_all_lines and int(line["custom_id"][2:4], 16) % 3 == 0):
            results.executed.append(line)
        else:
            response = {"status_code": error.status, "request_id": "req_x", "body": error.body}
            results.errors.append({**line, "response": response, "error": None})
    return results


def errors_file_id(output_file_id: str) -> str:
    """The id of the error file that only the proxy has."""
    return f"{output_file_id}-errors"


def show_running(batch: dict[str, Any], status: str) -> dict[str, Any]:
    """The batch before its end."""
    counts = {"total": batch["request_counts"]["total"], "completed": 0, "failed": 0}
    return {
        **batch,
        "status": status,
        "finalizing_at": batch["created_at"] if status == "finalizing" else None,
        "completed_at": None,
        "output_file_id": None,
        "error_file_id": None,
        "usage": None,
        "request_counts": counts,
    }


def show_failed_lines(batch: dict[str, Any], results: Results) -> dict[str, Any]:
    """The ended batch, with the lines that failed in an error file."""
    output_file_id, counts, executed = batch["output_file_id"], batch["request_counts"], len(results.executed)
    return {
        **batch,
        "output_file_id": output_file_id if results.executed else None,
        "error_file_id": errors_file_id(output_file_id),
        "usage": results.usage,
        "request_counts": {
            **counts,
            "completed": executed,
            "failed": counts["failed"] + counts["completed"] - executed,
        },
    }


def late_content(content: bytes, kind: str) -> tuple[str, bytes]:
    """(content type, content) of a download that comes before the file is complete."""
    match kind:
        case "a file of 0 bytes":
            return "application/octet-stream", b""
        case "a file without its last line":
            return "application/octet-stream", b"".join(content.splitlines(keepends=True)[:-1])
    return "text/html", PAGE


def as_lines(lines: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)
