"""Removes each guard of docs/security.md, one at a time; its test must fail: `python -m benchmarks.mutations`.

A guard is removed in a copy of the project, by replacing its source text. The test must pass in an untouched copy, and
fail in the changed one. None of these tests starts whole processes, so the benchmark takes some minutes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).parents[1]
COPIED = ("batch_assets", "batch_assets_tests", "pyproject.toml", "dagster.yaml", "workspace.yaml")
SECONDS_FOR_TESTS = 600
COPIES = 2  # of the project, in which guards are removed side by side


@dataclass(frozen=True)
class Guard:
    """`text` in the file is the guard; `without` takes its place; `test` must fail then."""

    name: str
    file: str
    text: str
    without: str
    test: str


GUARDS = (
    Guard(
        "an unreadable Host is refused",
        "batch_assets/local_api/http/access.py",
        "        name = urlsplit(url).hostname\n    except ValueError:",
        "        name = urlsplit(url).hostname\n    except ZeroDivisionError:",
        "batch_assets_tests/local_api/http/test_malformed_requests.py::test_an_invalid_header_is_never_a_server_error",
    ),
    Guard(
        "the whole key is compared",
        "batch_assets/local_api/http/access.py",
        "hmac.compare_digest(sent, right)",
        "right.startswith(sent)",
        "batch_assets_tests/local_api/serving/test_keys.py::test_other_keys_are_refused",
    ),
    Guard(
        "the key is not compared by its ending",
        "batch_assets/local_api/http/access.py",
        "hmac.compare_digest(sent, right)",
        "right.endswith(sent)",
        "batch_assets_tests/local_api/serving/test_keys.py::test_other_keys_are_refused",
    ),
    Guard(
        "a key is demanded",
        "batch_assets/local_api/http/access.py",
        'if self._keys and scope["path"]',
        'if False and scope["path"]',
        "batch_assets_tests/local_api/serving/test_keys.py::test_a_server_without_a_user_key_makes_a_private_one",
    ),
    Guard(
        "web pages are kept out of the local API",
        "batch_assets/local_api/http/access.py",
        "if self._only_local:",
        "if False:",
        "batch_assets_tests/local_api/serving/test_keys.py::test_requests_of_web_pages_are_refused_even_with_the_folders_key",
    ),
    Guard(
        "large heads are refused",
        "batch_assets/local_api/serving/uvicorn_server.py",
        "h11_max_incomplete_event_size=settings.limits.request_head_bytes,",
        "h11_max_incomplete_event_size=1 << 40,",
        "batch_assets_tests/local_api/http/test_connections.py::test_an_endless_head_is_refused_early_and_needs_no_memory",
    ),
    Guard(
        "connections have limits",
        "batch_assets/local_api/serving/uvicorn_server.py",
        "        http=connections.protocol(),\n",
        "",
        "batch_assets_tests/local_api/http/test_connections.py::test_a_head_that_does_not_end_ends_the_connection_after_a_timeout",
    ),
    Guard(
        "a flood gives way",
        "batch_assets/local_api/http/connections.py",
        "            other.abort()",
        "            break",
        "batch_assets_tests/local_api/http/test_connections.py::test_requests_that_never_end_do_not_block_other_clients",
    ),
    Guard(
        "a head has its time",
        "batch_assets/local_api/http/connections.py",
        "return Wait.HEAD",
        "return None",
        "batch_assets_tests/local_api/http/test_connections.py::test_a_head_that_does_not_end_ends_the_connection_after_a_timeout",
    ),
    Guard(
        "a body has its time",
        "batch_assets/local_api/http/connections.py",
        "return Wait.BODY",
        "return None",
        "batch_assets_tests/local_api/http/test_connections.py::test_a_body_that_stops_arriving_ends_the_connection_after_a_timeout",
    ),
    Guard(
        "a reader has its time",
        "batch_assets/local_api/http/connections.py",
        "return Wait.READER",
        "return None",
        "batch_assets_tests/local_api/http/test_connections.py::test_a_response_that_is_not_read_ends_the_connection_after_a_timeout",
    ),
    Guard(
        "another address takes a key",
        "batch_assets/local_api/serving/server.py",
        "if not is_local(self.host) and self.user_key is None:",
        "if False:",
        "batch_assets_tests/local_api/serving/test_keys.py::test_without_key_excludes_other_hosts_and_keys",
    ),
    Guard(
        "the key's file is the user's",
        "batch_assets/local_api/storage/private.py",
        "os.O_EXCL, 0o600",
        "os.O_EXCL, 0o644",
        "batch_assets_tests/local_api/storage/test_private.py::test_a_private_file_is_written_completely_or_not_at_all",
    ),
    Guard(
        "a key that others could read is replaced",
        "batch_assets/local_api/storage/private.py",
        "details.st_uid != os.geteuid() or details.st_mode & others",
        "False",
        "batch_assets_tests/local_api/serving/test_keys.py::test_a_key_that_others_could_read_is_replaced",
    ),
    Guard(
        "folders are the user's",
        "batch_assets/local_api/storage/private.py",
        "path.mkdir(mode=0o700, exist_ok=True)",
        "path.mkdir(exist_ok=True)",
        "batch_assets_tests/local_api/storage/test_private.py::test_each_new_folder_is_private",
    ),
    Guard(
        "an open data folder is closed",
        "batch_assets/local_api/storage/private.py",
        "if not missing and _is_ours(folder, tuple(holds)):",
        "if False:",
        "batch_assets_tests/local_api/storage/test_private.py::test_a_data_folder_that_others_may_read_becomes_private",
    ),
    Guard(
        "clients' text is printable",
        "batch_assets/local_api/wire/printable.py",
        "one if one.isprintable() or one in keep else _escaped(one)",
        "one",
        "batch_assets_tests/local_api/serving/test_events.py::test_text_of_clients_is_logged_as_plain_text",
    ),
    Guard(
        "a page needs the cookie",
        "batch_assets/local_api/page/access.py",
        'return not self.keys or _equal(request.cookies.get(COOKIE, ""), self.session)',
        "return True",
        "batch_assets_tests/local_api/page/test_access.py::test_without_the_cookie_each_page_leads_to_the_form_to_sign_in",
    ),
    Guard(
        "pages are below a folder that others do not know",
        "batch_assets/local_api/page/access.py",
        "if _equal(folder, self._access.folder) and",
        "if",
        "batch_assets_tests/local_api/page/test_access.py::test_without_the_cookie_each_page_leads_to_the_form_to_sign_in",
    ),
    Guard(
        "the cookie is for the pages only",
        "batch_assets/local_api/page/access.py",
        'path=f"{self.root}/", httponly=True',
        'path="/", httponly=True',
        "batch_assets_tests/local_api/page/test_access.py::test_the_token_or_a_key_signs_in_and_nothing_else",
    ),
    Guard(
        "a page's form is of the same origin",
        "batch_assets/local_api/page/access.py",
        "            and is_same_origin(origins[0], hosts[0])\n",
        "",
        "batch_assets_tests/local_api/page/test_access.py::test_a_form_of_another_page_is_refused_even_with_the_cookie_and_the_token",
    ),
    Guard(
        "a page's request is of the same site",
        "batch_assets/local_api/page/access.py",
        'is_own = all(site in ("same-origin", "none") for site in sites) or',
        "is_own = True or",
        "batch_assets_tests/local_api/page/test_access.py::test_another_page_may_link_to_a_page_and_may_not_embed_or_fetch_it",
    ),
    Guard(
        "a page's form has its token",
        "batch_assets/local_api/page/access.py",
        "if not _equal(given, self.form_token):",
        "if False:",
        "batch_assets_tests/local_api/page/test_access.py::test_a_form_without_its_token_is_refused",
    ),
    Guard(
        "pages run no foreign code",
        "batch_assets/local_api/page/app.py",
        '    "content-security-policy": _POLICY,\n',
        "",
        "batch_assets_tests/local_api/page/test_access.py::test_each_response_forbids_frames_foreign_code_and_caches",
    ),
    Guard(
        "pages escape text",
        "batch_assets/local_api/page/rendering.py",
        "autoescape=True,",
        "autoescape=False,",
        "batch_assets_tests/local_api/page/test_pages.py::test_text_of_users_is_text_on_every_page",
    ),
    Guard(
        "text on pages is printable",
        "batch_assets/local_api/page/rendering.py",
        "printable(shorten(str(value))) if is_text",
        "shorten(str(value)) if is_text",
        "batch_assets_tests/local_api/page/test_pages.py::test_text_of_users_is_text_on_every_page",
    ),
    Guard(
        "no browser shows a download as a page",
        "batch_assets/local_api/page/app.py",
        '    "x-content-type-options": "nosniff",\n',
        "",
        "batch_assets_tests/local_api/page/test_pages.py::test_a_file_becomes_a_batch_whose_page_has_its_log_counts_usage_and_files",
    ),
    Guard(
        "a run without its claim posts no more",
        "batch_assets/batching/submission/create.py",
        "        _check_claim(submitter.database, submission)\n        _stop",
        "        _stop",
        "batch_assets_tests/batching/submission/test_submit.py::test_a_run_that_has_lost_its_claim_posts_no_more",
    ),
    Guard(
        "a run's config sets no resource",
        "batch_assets/resources.py",
        "config_schema={})\n\n\ndef all_resources",
        "config_schema=None)\n\n\ndef all_resources",
        "batch_assets_tests/test_launch_config.py::test_no_string_of_any_run_config_is_resolved_from_the_environment",
    ),
    Guard(
        "an op takes no text",
        "batch_assets/assets/batch_request_file.py",
        "    same_task: bool = Field(",
        '    text: str = ""\n    same_task: bool = Field(',
        "batch_assets_tests/test_launch_config.py::test_no_string_of_any_run_config_is_resolved_from_the_environment",
    ),
    Guard(
        "another round keeps the task",
        "batch_assets/run_requests.py",
        '"same_task": True',
        '"same_task": False',
        "batch_assets_tests/sensors/test_next_round.py::test_another_round_uses_the_task_of_the_plan_not_the_configured_one",
    ),
    Guard(
        "a run in progress stops every set with one of its days",
        "batch_assets/run_requests.py",
        "first <= day.day <= last",
        "first == day.day",
        "batch_assets_tests/sensors/test_runs_of_several_days.py",
    ),
    Guard(
        "a failed collection of overdue answers is counted over the days",
        "batch_assets/run_keys.py",
        "{'daily' if is_daily else day.storage_id}",
        "{day.storage_id}",
        "batch_assets_tests/sensors/test_overdue_answers.py",
    ),
    Guard(
        "result files have names of our own",
        "batch_assets/batching/provider/download.py",
        'f"{submission.file_stem}_{kind}.jsonl"',
        'f"{batch.id}_{kind}.jsonl"',
        "batch_assets_tests/batching/collection/test_foreign_ids.py",
    ),
    Guard(
        "the UI has local names only",
        "batch_assets/cli/dagster_home/ui_access.py",
        '        if self._local_only and not is_local(parts["name"]):',
        "        if False:",
        "batch_assets_tests/cli/dagster_home/test_ui_access.py::test_another_name_that_resolves_to_this_machine_is_refused",
    ),
    Guard(
        "no other site uses the UI",
        "batch_assets/cli/dagster_home/ui_access.py",
        "        if not _is_same_site(scope, host):",
        "        if False:",
        "batch_assets_tests/cli/dagster_home/test_ui_access.py::test_every_request_of_another_origin_is_refused",
    ),
    Guard(
        "another port is another site",
        "batch_assets/cli/dagster_home/ui_access.py",
        '    return (sender["name"].lower(), int(sender["port"] or usual)) == (',
        '    return (sender["name"].lower(), int(receiver["port"] or usual)) == (',
        "batch_assets_tests/cli/dagster_home/test_ui_access.py::test_every_request_of_another_origin_is_refused",
    ),
    Guard(
        "what acts is a POST of JSON",
        "batch_assets/cli/dagster_home/ui_access.py",
        '.strip().lower() != "application/json":',
        '.strip().lower() == "?":',
        "batch_assets_tests/cli/dagster_home/test_ui_access.py::test_only_a_post_of_json_is_accepted",
    ),
    Guard(
        "no operation is in a URL",
        "batch_assets/cli/dagster_home/ui_access.py",
        '    return {**scope, "query_string": b""} if scope["path"] == GRAPHQL else scope',
        "    return scope",
        "batch_assets_tests/cli/dagster_home/test_ui_access.py::test_only_a_post_of_json_executes_a_mutation",
    ),
    Guard(
        "the WebSocket has the same check of access",
        "batch_assets/cli/dagster_home/ui_access.py",
        '        if scope["type"] not in ("http", "websocket"):',
        '        if scope["type"] != "http":',
        "batch_assets_tests/cli/dagster_home/test_ui_access.py::test_the_websocket_accepts_pages_of_the_ui_only",
    ),
    Guard(
        "the password is demanded",
        "batch_assets/cli/dagster_home/ui_access.py",
        "        if self._password is not None and not",
        "        if False and not",
        "batch_assets_tests/cli/dagster_home/test_ui_access.py::test_every_request_needs_the_password",
    ),
    Guard(
        "the whole password is compared",
        "batch_assets/cli/dagster_home/ui_access.py",
        "secrets.compare_digest(given, password.encode())",
        "password.encode().startswith(given)",
        "batch_assets_tests/cli/dagster_home/test_ui_access.py::test_only_the_whole_password_is_accepted",
    ),
    Guard(
        "an unfinished dagster.yaml is repaired",
        "batch_assets/cli/dagster_home/home.py",
        "    if not target.exists() or is_unfinished(target.read_bytes(), ours):",
        "    if not target.exists():",
        "batch_assets_tests/cli/dagster_home/test_dagster_home.py::test_a_file_that_a_full_disk_or_a_crash_cut_is_repaired",
    ),
    Guard(
        "dagster.yaml is there whole",
        "batch_assets/cli/dagster_home/home.py",
        "        write_whole(target, ours)\n    os.environ",
        "        target.write_bytes(ours)\n    os.environ",
        "batch_assets_tests/cli/dagster_home/test_dagster_home.py::test_a_full_disk_leaves_no_part_of_the_file",
    ),
    Guard(
        "children end with their starter",
        "batch_assets/cli/dagster_home/process_reaper.py",
        "    end_groups(groups, grace_seconds=TERMINATION_SECONDS)\n    for folder",
        "    for folder",
        "batch_assets_tests/cli/dagster_home/test_processes.py::test_the_children_and_grandchildren_of_a_killed_process_end",
    ),
    Guard(
        "children hold the lock",
        "batch_assets/cli/dagster_home/processes.py",
        "                pass_fds=(self._pipe, *self._locks, *files),",
        "                pass_fds=(self._pipe, *files),",
        "batch_assets_tests/cli/dagster_home/test_processes.py::test_the_children_hold_the_lock",
    ),
    Guard(
        "no child has the password",
        "batch_assets/cli/dagster_home/processes.py",
        "inherited = {name: value for name, value in os.environ.items() if name != PASSWORD_VARIABLE}\n        log",
        "inherited = dict(os.environ)\n        log",
        "batch_assets_tests/cli/dagster_home/test_processes.py::test_no_child_inherits_the_password_of_the_ui",
    ),
    Guard(
        "the preview is no Markdown",
        "batch_assets/assets/summaries.py",
        '"preview": dg.MetadataValue.table([dg.TableRecord(row) for row in report.cells()], schema=PREVIEW),',
        '"preview": dg.MetadataValue.md(str(report.cells())),',
        "batch_assets_tests/test_markup.py::test_no_outside_text_is_where_the_ui_renders_markdown",
    ),
    Guard(
        "outside text is printable",
        "batch_assets/batching/safety/outside_text.py",
        "    return UNSAFE.sub(safe, text)",
        "    return text",
        "batch_assets_tests/batching/safety/test_outside_text.py::test_control_characters_are_removed_and_no_others_are_changed",
    ),
    Guard(
        "rich reads no markup",
        "batch_assets/cli/terminal.py",
        "    return Text(as_shown(text, lines=True))",
        "    return Text.from_markup(as_shown(text, lines=True))",
        "batch_assets_tests/cli/test_terminal.py::test_markup_in_a_title_an_answer_or_a_message_is_printed_as_text",
    ),
    Guard(
        "messages of an API have no secrets",
        "batch_assets/batching/safety/outside_text.py",
        "    return without_secrets(printable(text), *settings)",
        "    return printable(text)",
        "batch_assets_tests/test_leaks.py::test_a_gateway_that_repeats_the_key_is_not_repeated",
    ),
    Guard(
        "errors are cleaned before Dagster stores them",
        "batch_assets/batching/safety/clean_errors.py",
        "            return function(*args, **kwargs)\n        except BaseException as error:\n"
        "            cleaned = without_secrets_in(error)\n",
        "            return function(*args, **kwargs)\n        except BaseException as error:\n"
        "            cleaned = error\n",
        "batch_assets_tests/test_leaks.py::test_the_sensors_own_error_has_no_secret_in_it",
    ),
    Guard(
        "a full disk is reported in a sentence",
        "batch_assets/cli/terminal.py",
        "    if isinstance(error, OSError) and error.strerror:",
        "    if False:",
        "batch_assets_tests/cli/test_terminal.py::test_an_error_of_a_disk_or_a_database_is_one_sentence",
    ),
    Guard(
        "messages: the tokens of their URLs are secrets",
        "batch_assets/batching/safety/secrets.py",
        "for url in notify.split()",
        "for url in ()",
        "batch_assets_tests/notifications/test_delivery.py::test_each_token_of_a_url_is_removed_from_any_text",
    ),
    Guard(
        "messages: the logs of apprise and urllib3 are cleaned",
        "batch_assets/notifications/delivery.py",
        "        logger_without_secrets(name)",
        "        pass",
        "batch_assets_tests/notifications/test_delivery.py::test_no_log_of_apprise_or_urllib3_has_the_token",
    ),
    Guard(
        "messages: no mention, link or style of a chat",
        "batch_assets/notifications/delivery.py",
        ".translate(HARMLESS)",
        "",
        "batch_assets_tests/notifications/test_delivery.py::test_a_message_has_no_markup_of_a_chat",
    ),
    Guard(
        "messages: an error of an API has no secret",
        "batch_assets/notifications/delivery.py",
        "return without_secrets(printable(text, lines=True))",
        "return printable(text, lines=True)",
        "batch_assets_tests/notifications/test_delivery.py::test_a_message_has_no_secret_of_the_environment",
    ),
)


def main() -> int:
    chosen = [guard for guard in GUARDS if not sys.argv[1:] or any(word in guard.name for word in sys.argv[1:])]
    copies: Queue[Path] = Queue()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(COPIES) as threads:
        for number in range(COPIES):
            copies.put(copy_of_the_project(Path(folder) / str(number)))
        untouched = copy_of_the_project(Path(folder) / "untouched")
        if not pass_all({guard.test for guard in chosen}, untouched):
            print("Some of the tests fail with all guards in place.")
            return 1

        def without(guard: Guard) -> str | None:
            copy = copies.get()
            try:
                return problem_without(guard, copy)
            finally:
                copies.put(copy)

        kept = 0
        for guard, problem in zip(chosen, threads.map(without, chosen), strict=True):
            kept += problem is None
            print(f"{'noticed' if problem is None else problem:<10} {guard.name}  ({guard.test})", flush=True)
    print(f"\n{kept} of {len(chosen)} guards are kept by a test.")
    return 0 if kept == len(chosen) else 1


def copy_of_the_project(copy: Path) -> Path:
    copy.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    return copy


def problem_without(guard: Guard, copy: Path) -> str | None:
    """Why the guard is not kept; None if its test fails without it."""
    path = copy / guard.file
    original = path.read_text(encoding="utf-8")
    if original.count(guard.text) != 1:
        return "NOT FOUND"
    path.write_text(original.replace(guard.text, guard.without), encoding="utf-8")
    try:
        return "UNNOTICED" if pass_all({guard.test}, copy) else None
    finally:
        path.write_text(original, encoding="utf-8")


def pass_all(tests: Collection[str], copy: Path) -> bool:
    """Whether these tests pass in the copy. Raises RuntimeError if they do not run at all."""
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not end_to_end", *sorted(tests)],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS_FOR_TESTS,
        check=False,
    )
    if ran.returncode not in (0, 1):
        raise RuntimeError(f"{', '.join(tests)} did not run:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}")
    return ran.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
