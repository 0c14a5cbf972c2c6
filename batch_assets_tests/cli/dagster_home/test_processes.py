"""Child processes end when their parent ends, and hold its lock until then: real processes and signals."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batch_assets.cli.dagster_home.home import StartError
from batch_assets.cli.dagster_home.lock import AlreadyRunningError, exclusive_lock
from batch_assets.cli.dagster_home.processes import PASSWORD_VARIABLE, ChildProcesses, child_processes
from batch_assets.cli.dagster_home.services import MAX_RESTARTS, HealthCheck, Service
from batch_assets_tests.end_to_end.processes import WAIT_SECONDS, wait_until

IGNORES_SIGNALS = "batch_assets_tests.cli.dagster_home.ignores_signals"
# As `dev`: take a lock, start a child that starts another, and run on.
PARENT = f"""
import sys, time
from pathlib import Path
from batch_assets.cli.dagster_home.lock import exclusive_lock
from batch_assets.cli.dagster_home.processes import child_processes
folder = Path(sys.argv[1])
with exclusive_lock(folder / "dev.lock") as lock, child_processes(lock=lock, folder=folder / "sockets") as children:
    child = children.start({IGNORES_SIGNALS!r}, str(folder / "grandchild"), *sys.argv[2:])
    (folder / "child").write_text(str(child.pid))
    while True:
        children.ensure_reaper()
        (folder / "new").write_text(str(children._reaper.pid))
        (folder / "new").rename(folder / "reaper")  # whole, also when this process is killed here
        time.sleep(0.05)
"""


def number_in(path: Path) -> int:
    wait_until(lambda: path.exists() and path.read_text().isdigit())
    return int(path.read_text())


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False)
    return not state.stdout.startswith("Z") and bool(state.stdout)


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock. `exclusive_lock` would wait for processes that are ending."""
    script = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    return subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, check=False).returncode != 0


@contextmanager
def running_parent(folder: Path, *arguments: str) -> Iterator[tuple["subprocess.Popen[bytes]", list[int]]]:
    """A running PARENT, with a reaper; yields it, and the ids of its child and grandchild."""
    (folder / "sockets").mkdir()
    process = subprocess.Popen([sys.executable, "-c", PARENT, str(folder), *arguments])
    started: list[int] = []
    try:
        started = [number_in(folder / name) for name in ("reaper", "child", "grandchild")]
        yield process, started[1:]
        started.append(number_in(folder / "reaper"))  # restarted, perhaps
    finally:
        process.kill()
        process.wait(WAIT_SECONDS)
        for member in filter(is_alive, started):
            os.kill(member, signal.SIGKILL)


def test_the_children_and_grandchildren_of_a_killed_process_end(tmp_path: Path) -> None:
    with running_parent(tmp_path, "obey") as (process, members):
        process.kill()
        wait_until(lambda: not any(map(is_alive, members)))
        wait_until(lambda: not (tmp_path / "sockets").exists())


def test_children_that_ignore_signals_are_killed_and_hold_the_lock_until_then(tmp_path: Path) -> None:
    lock = tmp_path / "dev.lock"
    with running_parent(tmp_path) as (process, members):
        assert is_locked(lock)
        process.kill()
        process.wait(WAIT_SECONDS)
        time.sleep(1)
        assert all(map(is_alive, members))
        assert is_locked(lock)
        with exclusive_lock(lock):  # the next `dev` waits for them
            assert not any(map(is_alive, members))


def test_the_children_hold_the_lock(tmp_path: Path) -> None:
    with running_parent(tmp_path, "obey") as (process, members):
        os.kill(number_in(tmp_path / "reaper"), signal.SIGSTOP)  # it cannot end the children now
        os.kill(process.pid, signal.SIGSTOP)
        os.kill(number_in(tmp_path / "reaper"), signal.SIGKILL)
        process.kill()
        process.wait(WAIT_SECONDS)
        assert is_locked(tmp_path / "dev.lock")
        os.killpg(members[0], signal.SIGKILL)
        wait_until(lambda: not is_locked(tmp_path / "dev.lock"))


def test_the_reaper_holds_the_lock(tmp_path: Path) -> None:
    with running_parent(tmp_path, "obey") as (process, members):
        reaper = number_in(tmp_path / "reaper")
        os.kill(reaper, signal.SIGSTOP)
        process.kill()
        process.wait(WAIT_SECONDS)
        os.killpg(members[0], signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, members)))
        assert is_locked(tmp_path / "dev.lock")
        os.kill(reaper, signal.SIGCONT)
        wait_until(lambda: not is_locked(tmp_path / "dev.lock"))


def test_a_killed_reaper_is_restarted(tmp_path: Path) -> None:
    with running_parent(tmp_path, "obey") as (process, members):
        killed = number_in(tmp_path / "reaper")
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: number_in(tmp_path / "reaper") != killed)
        process.kill()
        wait_until(lambda: not any(map(is_alive, members)))


def test_one_process_at_a_time_holds_the_lock(tmp_path: Path) -> None:
    with exclusive_lock(tmp_path / "lock"), pytest.raises(AlreadyRunningError), exclusive_lock(tmp_path / "lock"):
        pass
    with exclusive_lock(tmp_path / "lock"):
        pass


def test_no_child_inherits_the_password_of_the_ui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret of the ui")
    monkeypatch.setenv("BATCH_ASSETS_DATA_DIR", str(tmp_path))
    with child_processes() as children:
        child = children.start(IGNORES_SIGNALS, str(tmp_path / "grandchild"), "obey")
        variables = {PASSWORD_VARIABLE: "given"}
        with_password = children.start(IGNORES_SIGNALS, str(tmp_path / "other"), "obey", variables=variables)
        for process in (child.pid, number_in(tmp_path / "grandchild"), children._reaper.pid):
            environment = environment_of(process)
            assert b"secret of the ui" not in environment
            assert str(tmp_path).encode() in environment
        assert f"{PASSWORD_VARIABLE}=given".encode() in environment_of(with_password.pid)


def environment_of(process: int) -> bytes:
    """The environment of a process, as any process of the user can read it."""
    linux = Path(f"/proc/{process}/environ")
    if linux.exists():
        return linux.read_bytes()
    return subprocess.run(["ps", "-E", "-o", "command=", "-p", str(process)], capture_output=True, check=True).stdout


def test_the_children_of_an_ended_service_are_ended_before_its_restart(tmp_path: Path) -> None:
    with child_processes() as children:
        service = service_of(children, tmp_path)
        left = number_in(tmp_path / "0")
        assert service.process is not None
        service.process.kill()
        wait_until(lambda: service.process is not None and service.process.poll() is not None)
        assert is_alive(left)
        message = service.restart_if_ended(children, has_started=True)
        assert not is_alive(left)
        assert message == "The child has ended by SIGKILL, and is restarted; its output is above."
        number_in(tmp_path / "1")
        assert service.restart_if_ended(children, has_started=True) is None


def test_a_service_that_ends_too_often_is_not_restarted(tmp_path: Path) -> None:
    with child_processes() as children:
        service = service_of(children, tmp_path)
        for _ in range(MAX_RESTARTS):
            kill_and_wait(service)
            assert service.restart_if_ended(children, has_started=True)
        kill_and_wait(service)
        with pytest.raises(
            StartError, match=r"The child has ended by SIGKILL, after 3 restarts in a minute; its output"
        ):
            service.restart_if_ended(children, has_started=True)


def test_a_service_that_fails_at_its_start_is_not_restarted() -> None:
    with child_processes() as children:
        service = Service("The child", lambda: children.start("no_such_module"))
        service.process = failing = children.start("no_such_module")
        failing.wait(WAIT_SECONDS)
        with pytest.raises(StartError, match="The child has ended with exit code 1 while it started"):
            service.restart_if_ended(children, has_started=False)


def test_a_health_check_fails_after_several_failures_in_a_row() -> None:
    failures = [False, True, True, False, True, True, True]
    health = HealthCheck(lambda: failures.pop(0), max_failures=3)
    results = []
    while failures:
        health.next_check = 0
        results.append(health.has_failed_repeatedly())
    assert results == [False] * 6 + [True]


def service_of(children: ChildProcesses, folder: Path) -> Service:
    starts = iter(range(100))
    service = Service("The child", lambda: children.start(IGNORES_SIGNALS, str(folder / str(next(starts))), "obey"))
    service.process = service.start()
    return service


def kill_and_wait(service: Service) -> None:
    assert service.process is not None
    service.process.kill()
    service.process.wait(WAIT_SECONDS)


SIGNALLED = """
import os, signal, sys, time
from batch_assets.cli.dagster_home.processes import interrupt_on_signals
if "nohup" in sys.argv:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
interrupt_on_signals()
try:
    os.kill(os.getpid(), int(sys.argv[1]))
    time.sleep(0.2)
    print("went on")
except KeyboardInterrupt:
    os.kill(os.getpid(), int(sys.argv[1]))  # a second signal is ignored
    time.sleep(0.2)
    print("ended in order")
"""


def test_the_first_of_several_signals_ends_the_process_in_order() -> None:
    for number, *arguments in ((signal.SIGHUP,), (signal.SIGTERM,), (signal.SIGINT,), (signal.SIGHUP, "nohup")):
        command = [sys.executable, "-c", SIGNALLED, str(int(number)), *arguments]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert printed == ("went on\n" if arguments else "ended in order\n")
