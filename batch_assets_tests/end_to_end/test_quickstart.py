"""The commands of docs/quickstart.md, in their order, in a new folder that has what a clone has at its top."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

import batch_assets
from batch_assets_tests.end_to_end.processes import environment, wait_until
from batch_assets_tests.test_docs import sql_of

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

ROOT = Path(batch_assets.__file__).parent.parent
PAGE = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
PRINTED = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
OF_A_CLONE = ("Makefile", "pyproject.toml", "constraints.txt", "workspace.yaml", "dagster.yaml")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder in which `make` finds the environment that runs this test, and installs nothing."""
    for name in OF_A_CLONE:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (tmp_path / ".venv" / name).symlink_to(Path(sys.prefix) / name)
    (tmp_path / ".venv" / "ready").touch()
    return tmp_path


def test_the_quickstart_works_in_a_new_folder_in_its_order(clone: Path) -> None:
    *until_dev, dev = COMMANDS
    assert dev == "make dev\n"
    variables = {name: value for name, value in environment(clone).items() if name != "BATCH_ASSETS_DATA_DIR"}
    script = "set -e\n" + "".join(until_dev) + "env -0 > variables\n"
    done = subprocess.run(
        ["bash", "-c", script], cwd=clone, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert PRINTED
    for text in PRINTED:
        assert text in done.stdout
    with duckdb.connect(str(clone / "data-news" / "batch_assets.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT article_id, status FROM summaries ORDER BY ALL").fetchall() == [
            ("1", "answered"), ("2", "answered"),
        ]  # fmt: skip
        assert connection.execute("SELECT count(*) FROM keywords WHERE status = 'answered'").fetchall() == [(2,)]
        assert connection.execute("SELECT reason FROM rejected_article").fetchall() == [("empty_body",)]
        about_keywords = [statement for statement in sql_of("docs/tasks.md") if "FROM vectors" not in statement]
        assert len(about_keywords) > 2
        for statement in about_keywords:
            connection.execute(statement).fetchall()
    assert "empty_body" in done.stdout

    variables = dict(line.split("=", 1) for line in (clone / "variables").read_text().split("\0") if line)
    log = clone / "dev.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            ["bash", "-c", f"exec {dev}"],
            cwd=clone,
            env=variables,
            stdout=output,
            stderr=output,
            start_new_session=True,
        ) as process,
    ):
        try:
            wait_until(lambda: "Ready: http://" in log.read_text() or process.poll() is not None, log.read_text)
            assert process.poll() is None, log.read_text()
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(60)
