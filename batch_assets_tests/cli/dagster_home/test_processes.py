"""Children end when the process that started them does, and hold its lock until then: real processes and signals."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batch_assets.cli.dagster_home import StartError
from batch_assets.cli.dagster_home.lock import AlreadyRunningError, only_one
from batch_assets.cli.dagster_home.processes import PASSWORD_VARIABLE, Family, family
from batch_assets.cli.dagster_home.services import MOST_RESTARTS, Looks, Service

STUBBORN = "batch_assets_tests.cli.dagster_home.stubborn"
# What `dev` does: takes a lock, starts a child that starts another, and would stay.
STARTER = f"""
import sys, time
from pathlib import Path
from batch_assets.cli.dagster_home.lock import only_one
from batch_assets.cli.dagster_home.processes import family
folder = Path(sys.argv[1])
with only_one(folder / "dev.lock") as lock, family(lock=lock, folder=folder / "sockets") as children:
    child = children.start({STUBBORN!r}, str(folder / "grandchild"), *sys.argv[2:])
    (folder / "child").write_text(str(child.pid))
    while True:
        children.keep_guardian()
        (folder / "guardian").write_text(str(children._guardian.pid))
        time.sleep(0.05)
"""


def wait_until(holds: Callable[[], bool], *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


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
    """Whether another process holds the lock: looked at from outside, since `only_one` waits for the dying."""
    script = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    return subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, check=False).returncode != 0


@contextmanager
def starter(folder: Path, *arguments: str) -> Iterator[tuple["subprocess.Popen[bytes]", list[int]]]:
    """A running STARTER, and the ids of its child and grandchild."""
    (folder / "sockets").mkdir()
    process = subprocess.Popen([sys.executable, "-c", STARTER, str(folder), *arguments])
    family_members = []
    try:
        family_members = [number_in(folder / "child"), number_in(folder / "grandchild")]
        yield process, family_members
    finally:
        process.kill()
        process.wait(10)
        for member in filter(is_alive, [*family_members, number_in(folder / "guardian")]):
            os.kill(member, signal.SIGKILL)


def test_children_of_a_killed_process_end_with_all_that_they_started(tmp_path: Path) -> None:
    with starter(tmp_path, "obey") as (process, members):
        process.kill()
        wait_until(lambda: not any(map(is_alive, members)))
        wait_until(lambda: not (tmp_path / "sockets").exists())


def test_children_that_ignore_signals_end_too_and_hold_the_lock_until_then(tmp_path: Path) -> None:
    lock = tmp_path / "dev.lock"
    with starter(tmp_path) as (process, members):
        assert is_locked(lock)
        process.kill()
        process.wait(10)
        time.sleep(1)
        assert all(map(is_alive, members))
        assert is_locked(lock)
        with only_one(lock):  # the next `dev` waits for them
            assert not any(map(is_alive, members))


def test_the_children_hold_the_lock(tmp_path: Path) -> None:
    with starter(tmp_path, "obey") as (process, members):
        os.kill(number_in(tmp_path / "guardian"), signal.SIGSTOP)  # it cannot end them now
        os.kill(process.pid, signal.SIGSTOP)
        os.kill(number_in(tmp_path / "guardian"), signal.SIGKILL)
        process.kill()
        process.wait(10)
        assert is_locked(tmp_path / "dev.lock")
        os.killpg(members[0], signal.SIGKILL)
        wait_until(lambda: not is_locked(tmp_path / "dev.lock"))


def test_the_guardian_holds_the_lock(tmp_path: Path) -> None:
    with starter(tmp_path, "obey") as (process, members):
        guardian = number_in(tmp_path / "guardian")
        os.kill(guardian, signal.SIGSTOP)
        process.kill()
        process.wait(10)
        os.killpg(members[0], signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, members)))
        assert is_locked(tmp_path / "dev.lock")
        os.kill(guardian, signal.SIGCONT)
        wait_until(lambda: not is_locked(tmp_path / "dev.lock"))


def test_a_killed_guardian_is_replaced(tmp_path: Path) -> None:
    with starter(tmp_path, "obey") as (process, members):
        killed = number_in(tmp_path / "guardian")
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: number_in(tmp_path / "guardian") != killed)
        process.kill()
        wait_until(lambda: not any(map(is_alive, members)))


def test_one_lock_is_held_once_at_a_time(tmp_path: Path) -> None:
    with only_one(tmp_path / "lock"), pytest.raises(AlreadyRunningError), only_one(tmp_path / "lock"):
        pass
    with only_one(tmp_path / "lock"):
        pass


def test_the_password_of_the_ui_reaches_no_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret of the ui")
    monkeypatch.setenv("BATCH_ASSETS_DATA_DIR", str(tmp_path))
    with family() as children:
        child = children.start(STUBBORN, str(tmp_path / "grandchild"), "obey")
        told = children.start(STUBBORN, str(tmp_path / "told"), "obey", variables={PASSWORD_VARIABLE: "told"})
        for process in (child.pid, number_in(tmp_path / "grandchild"), children._guardian.pid):
            environment = environment_of(process)
            assert b"secret of the ui" not in environment
            assert str(tmp_path).encode() in environment
        assert f"{PASSWORD_VARIABLE}=told".encode() in environment_of(told.pid)


def environment_of(process: int) -> bytes:
    """As any process of the user can see it."""
    linux = Path(f"/proc/{process}/environ")
    if linux.exists():
        return linux.read_bytes()
    return subprocess.run(["ps", "-E", "-o", "command=", "-p", str(process)], capture_output=True, check=True).stdout


def test_what_a_dead_child_left_is_ended_before_its_next_start(tmp_path: Path) -> None:
    with family() as children:
        service = stubborn_service(children, tmp_path)
        left = number_in(tmp_path / "0")
        assert service.process is not None
        service.process.kill()
        wait_until(lambda: service.process is not None and service.process.poll() is not None)
        assert is_alive(left)
        said = service.keep(children, has_started=True)
        assert not is_alive(left)
        assert said == "The child has ended by SIGKILL, and is started again; its output is above."
        number_in(tmp_path / "1")
        assert service.keep(children, has_started=True) is None


def test_a_child_that_ends_again_and_again_is_given_up(tmp_path: Path) -> None:
    with family() as children:
        service = stubborn_service(children, tmp_path)
        for _ in range(MOST_RESTARTS):
            kill_and_wait(service)
            assert service.keep(children, has_started=True)
        kill_and_wait(service)
        with pytest.raises(
            StartError, match=r"The child has ended by SIGKILL, after 3 restarts in a minute; its output"
        ):
            service.keep(children, has_started=True)


def test_a_child_that_fails_by_itself_at_the_start_is_not_started_again() -> None:
    with family() as children:
        service = Service("The child", lambda: children.start("no_such_module"))
        service.process = failing = children.start("no_such_module")
        failing.wait(30)
        with pytest.raises(StartError, match="The child has ended with exit code 1 while it started"):
            service.keep(children, has_started=False)


def test_a_server_that_is_missed_several_times_in_a_row_is_lost() -> None:
    answers = [False, True, True, False, True, True, True]
    looks = Looks(lambda: answers.pop(0), most_misses=3)
    seen = []
    while answers:
        looks.next_look = 0
        seen.append(looks.have_missed())
    assert seen == [False] * 6 + [True]


def stubborn_service(children: Family, folder: Path) -> Service:
    starts = iter(range(100))
    service = Service("The child", lambda: children.start(STUBBORN, str(folder / str(next(starts))), "obey"))
    service.process = service.start()
    return service


def kill_and_wait(service: Service) -> None:
    assert service.process is not None
    service.process.kill()
    service.process.wait(10)


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
    os.kill(os.getpid(), int(sys.argv[1]))  # a second one does not disturb the ending
    time.sleep(0.2)
    print("ended in order")
"""


def test_each_signal_to_end_is_one_to_end_in_order() -> None:
    for number, *arguments in ((signal.SIGHUP,), (signal.SIGTERM,), (signal.SIGINT,), (signal.SIGHUP, "nohup")):
        command = [sys.executable, "-c", SIGNALLED, str(int(number)), *arguments]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert said == ("went on\n" if arguments else "ended in order\n")
