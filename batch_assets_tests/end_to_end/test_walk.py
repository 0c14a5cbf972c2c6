"""The commands of docs/tasks.md: from nothing to answers in a table, in a Dagster project of a user."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import duckdb
import pytest

import batch_assets

pytestmark = pytest.mark.end_to_end

ROOT = Path(batch_assets.__file__).parent.parent
PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
[WALK] = re.findall(r"```sh\n(create-dagster.*?)```", PAGE, re.DOTALL)
COMMANDS = WALK.strip().splitlines()
KEYS_OF_THE_PACKAGE = """
import batch_assets.definitions
assert "site-packages" in batch_assets.definitions.__file__
keys = {key.to_user_string() for key in batch_assets.definitions.defs().resolve_asset_graph().get_all_asset_keys()}
print(*sorted(keys & {"keywords/keywords", "summaries"}))
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment of its own, which also finds the packages of this one: they need no download."""
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    [site] = [
        Path(path)
        for path in subprocess.check_output(
            [python, "-c", "import site; print(site.getsitepackages()[0])"], text=True
        ).split()
    ]
    (site / "of_the_tests.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    for name in ("create-dagster", "dg", "dagster"):
        source = Path(sys.executable).parent / name
        script = folder / "bin" / name
        script.write_text(
            re.sub(r"^#!.*", f"#!{python}", source.read_text(encoding="utf-8"), count=1), encoding="utf-8"
        )
        script.chmod(0o755)
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("BATCH_ASSETS", "OPENAI", "DAGSTER"))
    }
    return {
        **kept,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(folder),
        "HOME": str(tmp_path),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
    }


def as_in_the_test(command: str, wheels: Path) -> str:
    """The command of the page, with the package of this checkout, and without an index of packages."""
    if command.startswith("pip install"):
        what = "--editable ." if "--editable" in command else f"{wheels}/*.whl"
        return (
            f"{sys.executable} -m pip --python $VIRTUAL_ENV/bin/python install -q --no-deps --no-build-isolation {what}"
        )
    return command.replace("python -c", "$VIRTUAL_ENV/bin/python -c")


def test_the_commands_of_the_page_lead_to_answers_in_a_table(tmp_path: Path, environment: dict[str, str]) -> None:
    wheels = tmp_path / "wheels"
    source = tmp_path / "source"  # a build writes into the folder of its sources
    shutil.copytree(ROOT / "batch_assets", source / "batch_assets", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "dagster.yaml", "workspace.yaml"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    build = [*pip, "-w", str(wheels), str(source)]
    subprocess.run(build, check=True, timeout=120)
    commands = [as_in_the_test(command, wheels) for command in COMMANDS]
    # between the runs, the batch of the first one must end
    place = next(number for number, command in enumerate(commands) if "keywords/keywords" in command)
    commands.insert(place, "sleep 3")
    # told apart in the output: which command failed
    script = "\n".join(["set -e", *commands])
    started = time.monotonic()
    process = subprocess.Popen(
        ["bash", "-c", script], cwd=tmp_path, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:  # the server keeps the pipe open, so the end of the last command is looked for
            lines.append(line)
            if process.poll() is not None or "└" in line:
                break
        assert process.wait(120) == 0, "".join(lines[-60:])
    finally:
        os.killpg(process.pid, signal.SIGTERM)
    print(f"{time.monotonic() - started:.0f} s")
    with duckdb.connect(str(tmp_path / "press" / "data" / "batch_assets.duckdb"), read_only=True) as connection:
        rows = connection.execute("SELECT status, len(keywords) > 0 FROM keywords").fetchall()
    assert rows == [("answered", True)] * 9
    # the wheel has the YAML of its own tasks, and finds it beside the project of the user
    keys = subprocess.check_output(
        [f"{environment['VIRTUAL_ENV']}/bin/python", "-c", KEYS_OF_THE_PACKAGE],
        cwd=tmp_path,
        env=environment,
        text=True,
    )
    assert keys.split() == ["keywords/keywords", "summaries"]
