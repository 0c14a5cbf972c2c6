"""`batch-assets errors` accounts for every article without an answer, and names the command."""

import json

from batch_assets_tests.cli.conftest import NEXT_DAY, Finished, has_no_effect, run
from batch_assets_tests.project import DAY


def test_every_article_without_an_answer_is_in_a_group_with_the_command(finished: Finished) -> None:
    report = json.loads(run("errors", DAY, "--json").stdout)
    groups = {(group["status"], group["code"]): group for group in report["articles"]}
    assert set(groups) == {
        ("failed", "content_refused"), ("failed", "context_length_exceeded"), ("pending", "server_error"),
        ("pending", "missing_from_results"),
    }  # fmt: skip
    assert sum(group["articles"] for group in groups.values()) == 4
    named = {article_id for group in groups.values() for article_id in group["article_ids"]}
    assert named == {one for (one,) in finished.rows("SELECT article_id FROM summaries WHERE status <> 'answered'")}
    assert "plan the day again" in groups["failed", "content_refused"]["what_to_do"]
    assert f"batch-assets retry {DAY}" in groups["failed", "context_length_exceeded"]["what_to_do"]
    assert "The sensor starts a run" in groups["pending", "server_error"]["what_to_do"]
    [lines] = report["quarantined_lines"]
    assert (lines["batch_id"], lines["lines"]) == (finished.batch_id, 1)
    [rows] = report["rejected_rows"]
    assert (rows["reason"], rows["rows"], rows["is_of_day"]) == ("empty_body", 1, True)
    assert (rows["first_row"], rows["first_line"]) == (15, 15)


def test_texts_of_others_have_no_effect_on_the_terminal(finished: Finished) -> None:
    done = run("errors", DAY)
    assert done.exit_code == 0
    assert has_no_effect(done.stdout)
    for text in ("4 articles of", "content_refused", "before", "In quarantine: 1 line", "No article: 1 row"):
        assert text in done.stdout, text


def test_one_code_and_a_day_without_errors(finished: Finished) -> None:
    [group] = json.loads(run("errors", DAY, "--code", "server_error", "--json").stdout)["articles"]
    assert (group["code"], group["articles"]) == ("server_error", 1)
    assert f"{NEXT_DAY} was not planned yet for summaries" in run("errors", NEXT_DAY).stdout
    assert json.loads(run("errors", NEXT_DAY, "--json").stdout)["is_planned"] is False
    assert f"No article of {DAY} is without an answer" in run("errors", DAY, "--code", "of_none").stdout
    assert "There is no task other" in run("errors", DAY, "--task", "other").stderr


def test_an_article_that_was_submitted_again_is_in_flight(own_copy: Finished) -> None:
    own_copy.execute("""
        UPDATE openai_batch SET state = 'submitted';
        INSERT INTO in_flight_request (custom_id, submission_id)
        SELECT custom_id, submission_id FROM summaries, openai_batch WHERE error_code = 'server_error'
    """)
    groups = json.loads(run("errors", DAY, "--json").stdout)["articles"]
    assert [(group["articles"], group["code"]) for group in groups if group["status"] == "in_flight"] == [(1, None)]
    assert "server_error" not in [group["code"] for group in groups]
