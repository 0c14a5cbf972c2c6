"""Which host names mean this machine."""

from __future__ import annotations

import pytest

from batch_assets.local_api.http.local_names import is_local


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("LocalHost.", True),
        ("api.localhost", True),
        ("localhost.example", False),
        ("notlocalhost", False),
        ("0.0.0.0", False),
        ("::", False),
        ("10.1.2.3", False),
        ("", False),
    ],
)
def test_is_local_knows_the_names_and_addresses_of_this_machine(name: str, local: bool) -> None:
    assert is_local(name) is local
