"""`batch-assets notify --test`, and what of a URL is never shown."""

import ast
import logging
from pathlib import Path

import pytest
from click.testing import CliRunner

import batch_assets
from batch_assets.batching.safety.secrets import without_secrets
from batch_assets.cli.main import main
from batch_assets.notifications.delivery import Message, send
from batch_assets.settings import SettingError, read_settings
from batch_assets_tests.notifications.endpoint import TOKEN, Endpoint

SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#general"


def test_the_command_says_that_each_url_accepted_the_message(endpoint: Endpoint) -> None:
    done = CliRunner().invoke(main, ["notify", "--test"])
    assert (done.exit_code, done.output) == (0, "json://… (URL 1): accepted\n")
    assert ["a test message" in text for text in endpoint.texts] == [True]


def test_the_command_names_the_urls_that_refuse_without_their_secrets(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = f"slak://{TOKEN}-of-another"
    monkeypatch.setenv("BATCH_ASSETS_NOTIFY", f"{endpoint.url}  {unknown}\njson://user:{TOKEN}@127.0.0.1:9/")
    done = CliRunner().invoke(main, ["notify", "--test"])
    assert done.exit_code == 1
    accepted, not_known, not_there = done.output.splitlines()
    assert accepted == "json://… (URL 1): accepted"
    assert not_known.startswith("slak://… (URL 2): not accepted: apprise does not know such a URL")
    assert not_there.startswith("json://… (URL 3): not accepted: A Connection error occurred")
    assert TOKEN not in done.output
    endpoint.status = 500
    assert (
        CliRunner()
        .invoke(main, ["notify", "--test"])
        .output.startswith("json://… (URL 1): not accepted: Failed to send")
    )


def test_the_command_without_urls_says_which_variable_has_them() -> None:
    done = CliRunner().invoke(main, ["notify", "--test"])
    assert done.exit_code == 1
    assert "BATCH_ASSETS_NOTIFY is not set." in done.output


def test_an_entry_that_is_no_url_is_named_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_ASSETS_NOTIFY", f"{SLACK} {TOKEN}")
    with pytest.raises(SettingError, match=r"^BATCH_ASSETS_NOTIFY: its entry 2 is no URL") as raised:
        read_settings()
    assert TOKEN not in str(raised.value)
    assert TOKEN not in repr(read_settings_with(monkeypatch, f"json://host/{TOKEN}"))


def read_settings_with(monkeypatch: pytest.MonkeyPatch, urls: str) -> object:
    monkeypatch.setenv("BATCH_ASSETS_NOTIFY", urls)
    return read_settings()


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        (SLACK, "T1JJ3T3L2"),
        (SLACK, "TIiajkdnlazkcOXrIdevi7FQ"),
        ("discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", "JHMHI8qBe7bk2ZwO5U711o3dV_js"),
        ("tgram://123456789:AAbb-ccDDee/12315544", "AAbb-ccDDee"),
        ("mailto://me:p%40ss-word@gmail.com?to=a@b.example", "p@ss-word"),
        ("json://host.example/?+X-Auth=Abcdefgh1", "Abcdefgh1"),
    ],
)
def test_each_token_of_a_url_is_removed_from_any_text(monkeypatch: pytest.MonkeyPatch, url: str, secret: str) -> None:
    monkeypatch.setenv("BATCH_ASSETS_NOTIFY", f"json://127.0.0.1:81/notifications {url}")
    assert secret not in without_secrets(f"It says {secret}, and {url}.")


def test_hosts_and_words_of_a_url_stay_in_other_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_ASSETS_NOTIFY", "json://127.0.0.1:81/notifications mailto://u:p@mail.example.com")
    text = "The local Batch API at http://127.0.0.1:40139/v1, the sensor notifications, mail.example.com"
    assert without_secrets(text) == text


def test_no_log_of_apprise_or_urllib3_has_the_token(endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert send(endpoint.url, Message("A title", "A body")) is None
    assert {"apprise", "urllib3.connectionpool"} <= {record.name for record in caplog.records}
    assert TOKEN not in caplog.text


def test_a_message_has_no_markup_of_a_chat(endpoint: Endpoint) -> None:
    assert send(endpoint.url, Message("<!channel>", "@everyone [a](http://b.example) \u202e\x1b[1m")) is None
    [text] = endpoint.texts
    assert not set("<>@[]\u202e\x1b") & set(text)


def test_a_message_has_no_secret_of_the_environment(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-key-of-the-user-0123456789")
    body = f"It refuses sk-a-key-of-the-user-0123456789.\nIt knows {TOKEN}."
    assert send(endpoint.url, Message("A title", body)) is None
    assert endpoint.texts == ["A title\nIt refuses ….\nIt knows …."]


def test_apprise_is_imported_only_when_a_message_is_sent() -> None:
    package = Path(batch_assets.__file__).parent
    importing = [path for path in package.rglob("*.py") if "import apprise" in path.read_text(encoding="utf-8")]
    assert [path.name for path in importing] == ["delivery.py"]
    at_the_top = ast.parse(importing[0].read_text(encoding="utf-8")).body
    assert "apprise" not in {name.name for node in at_the_top if isinstance(node, ast.Import) for name in node.names}
