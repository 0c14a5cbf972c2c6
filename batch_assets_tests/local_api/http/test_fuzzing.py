"""Hostile requests, which schemathesis makes of the server's description: refused with OpenAI's errors, never a 500."""

from __future__ import annotations

from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from batch_assets import local_api
from batch_assets_tests.local_api.support import http_request
from batch_assets_tests.local_api_client import LocalApi

DESCRIPTION = Path(local_api.__file__).with_name("openapi.json")
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
description = schemathesis.openapi.from_path(DESCRIPTION)


@pytest.mark.end_to_end
@description.parametrize()
@settings(max_examples=10, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_request_brings_the_server_down(case: schemathesis.Case, shared_api: LocalApi) -> None:
    case.call_and_validate(base_url=shared_api.url, checks=CHECKS, timeout=10)


def test_the_server_describes_itself(shared_api: LocalApi) -> None:
    assert http_request(shared_api, "GET", "/openapi.json").content == DESCRIPTION.read_bytes()
