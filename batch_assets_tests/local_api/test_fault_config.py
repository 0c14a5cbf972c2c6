"""FaultConfig: which values are valid, and which fault a line has."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_assets.local_api.faults import FaultConfig, LineFault, read_fault_config

LINES = 200


@given(custom_id=st.text(), batch=st.integers(1, 9), shares=st.lists(st.floats(0, 1 / 3), min_size=3, max_size=3))
def test_a_line_has_at_most_one_fault_and_only_one_with_a_share(
    custom_id: str, batch: int, shares: list[float]
) -> None:
    faults = FaultConfig(expire_share=shares[0], drop_share=shares[1], fail_share=shares[2])
    fault = faults.line_fault(batch, custom_id)
    assert fault == faults.line_fault(batch, custom_id)
    assert dict(zip(("expire", "drop", "fail"), shares, strict=True)).get(fault, 1) > 0


def test_another_seed_chooses_other_lines() -> None:
    chosen = [
        {
            n
            for n in range(LINES)
            if FaultConfig(seed=seed, fail_share=0.3).line_fault(1, f"request-{n}") is LineFault.FAIL
        }
        for seed in (0, 0, 1)
    ]
    assert chosen[0] == chosen[1] != chosen[2]


WRONG = [
    ([], "JSON object"),
    ({"fail": 1}, "There is no fault 'fail'"),
    ({"fail_share": 1.5}, "more than 1"),
    ({"fail_share": 0.6, "drop_share": 0.6}, "more than 1"),
    ({"fail_share": -0.1}, "from 0 to"),
    ({"fail_share": "0.1"}, "must be a number"),
    ({"fail_share": True}, "must be a number"),
    ({"fail_share": None}, "must be a number"),
    ({"list_lag": 1e999}, "from 0 to"),
    ({"list_lag": float("nan")}, "from 0 to"),
    ({"list_lag": 10**400}, "from 0 to"),
    ({"cut_create": 1.5}, "whole number"),
    ({"fail_status": 200}, "from 400 to 599"),
    ({"fail_status": 600}, "from 400 to 599"),
]


@pytest.mark.parametrize(("wrong", "sentence"), WRONG)
def test_invalid_faults_are_refused_with_an_error_message(wrong: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_fault_config(wrong)
