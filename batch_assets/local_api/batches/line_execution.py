"""The execution of one line of a batch: latency, faults, and the engine."""

from __future__ import annotations

import logging
import time
from typing import Any

from batch_assets.local_api.batches.batch_run import BatchRun, Line
from batch_assets.local_api.batches.result_files import Result, make_result
from batch_assets.local_api.endpoints import registry
from batch_assets.local_api.engines.engine_choice import Engines
from batch_assets.local_api.engines.remote_engine import EngineUnavailableError
from batch_assets.local_api.faults import LineFault
from batch_assets.local_api.settings import Settings
from batch_assets.local_api.wire import ids, strict_json
from batch_assets.local_api.wire.errors import ApiError, server_error

logger = logging.getLogger(__name__)


def execute_line(run: BatchRun, line: Line, engines: Engines, settings: Settings) -> Result | None:
    """The result of a line. None when it has none: it was stopped or deferred, or has the fault EXPIRE or DROP."""
    if not _wait_for_latency(run, settings.latency_seconds):
        return None
    request = strict_json.loads(line.data)
    custom_id = request["custom_id"]
    faults = settings.fault_injector.faults
    match faults.line_fault(run.seq, custom_id):
        case LineFault.EXPIRE:
            return None
        case LineFault.DROP:
            run.mark_done(line)
            return None
        case LineFault.FAIL:
            status, body = faults.failure()
        case LineFault.NONE:
            try:
                status, body = _ask_engine(run, line, request, engines, settings.limits.engine_attempts)
            except EngineUnavailableError as error:
                _defer(run, line, error)
                return None
    return make_result(custom_id, status, ids.new_line_request_id(), body)


def _wait_for_latency(run: BatchRun, seconds: float) -> bool:
    """False when meanwhile the run is stopped, or the batch expires."""
    if not seconds:
        return True
    is_stopped = run.stop.wait(min(seconds, max(0.0, run.expires_at - time.time())))
    return not is_stopped and time.time() < run.expires_at


def _ask_engine(
    run: BatchRun, line: Line, request: dict[str, Any], engines: Engines, maximum_attempts: int
) -> tuple[int, dict[str, Any]]:
    """Status and body of the response. Raises EngineUnavailableError."""
    attempts = maximum_attempts - line.failed_attempts
    try:
        body = registry.answer(engines, request["url"], request["body"], stop=run.stop, attempts=attempts)
    except EngineUnavailableError:
        raise
    except ApiError as error:
        return error.status, error.body()
    except Exception:
        logger.exception("The engine failed on %r of batch %s.", request["custom_id"], run.batch_id)
        return 500, server_error().body()
    return 200, body


def _defer(run: BatchRun, line: Line, error: EngineUnavailableError) -> None:
    line.failed_attempts += error.failed_attempts
    if run.defer_line(line, error.retry_after_seconds) and not run.stop.is_set():
        logger.warning("Batch %s pauses: %s", run.batch_id, error.response_error.message)
