"""Each guard of docs/security.md, removed in turn, and the test that notices: `python -m benchmarks.mutations`.

A guard is removed in a copy of the project, by replacing its source text. The test must pass in the untouched copy, and
fail in the changed one. None of these tests starts whole processes, so all of it takes some minutes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("batch_assets", "batch_assets_tests", "pyproject.toml", "dagster.yaml", "workspace.yaml")
SECONDS_FOR_A_TEST = 300


@dataclass(frozen=True)
class Guard:
    """`text` in the file is the guard; `without` takes its place; `test` must fail then."""

    name: str
    file: str
    text: str
    without: str
    test: str


GUARDS: tuple[Guard, ...] = ()


def main() -> int:
    chosen = [guard for guard in GUARDS if not sys.argv[1:] or any(word in guard.name for word in sys.argv[1:])]
    kept = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        for guard in chosen:
            problem = try_without(guard, copy)
            kept += problem is None
            print(f"{'noticed' if problem is None else problem:<12} {guard.name}  ({guard.test})", flush=True)
    print(f"\n{kept} of {len(chosen)} guards are kept by a test.")
    return 0 if kept == len(chosen) else 1


def try_without(guard: Guard, copy: Path) -> str | None:
    """Why the guard is not kept; None if its test passes with it and fails without it."""
    path = copy / guard.file
    original = path.read_text(encoding="utf-8")
    if original.count(guard.text) != 1:
        return "NOT FOUND"
    if not passes(guard.test, copy):
        return "FAILS WITH IT"
    path.write_text(original.replace(guard.text, guard.without), encoding="utf-8")
    try:
        return "UNNOTICED" if passes(guard.test, copy) else None
    finally:
        path.write_text(original, encoding="utf-8")


def passes(test: str, copy: Path) -> bool:
    """Whether the test passes in the copy. Raises RuntimeError if it does not run at all."""
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not end_to_end", test],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS_FOR_A_TEST,
        check=False,
    )
    if ran.returncode not in (0, 1):
        raise RuntimeError(f"{test} did not run:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}")
    return ran.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
