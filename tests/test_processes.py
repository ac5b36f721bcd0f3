"""Processes: a caller, its workers and their programs end when they should."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from conftest import record
from tiers import third_slow

import trajrec
from trajrec.errors import RecordedError
from trajrec.replay import fork_many, replay_episodes
from trajrec.replay.processes.child import (
    SubprocessError,
    call_in_subprocess,
    die_with_parent,
    end_if_orphan,
)
from trajrec.replay.processes.workers import (
    Worker,
    WorkerDied,
    WorkerPool,
    map_ordered,
    thread_limits,
)

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="the processes that are started here are those of POSIX"
)


def is_running(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until_gone(process_id: int) -> bool:
    deadline = time.monotonic() + 60
    while is_running(process_id) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(process_id)


def start_a_sleeper() -> int:
    return subprocess.Popen(["sleep", "300"]).pid


@pytest.mark.slow
def test_programs_of_a_subprocess_end_with_it() -> None:
    start = time.monotonic()
    process_id = call_in_subprocess(start_a_sleeper)
    assert time.monotonic() - start < 120
    assert wait_until_gone(process_id)


def test_function_that_ends_its_process_has_no_result() -> None:
    with pytest.raises(SubprocessError, match="ended with status 0 and no result"):
        call_in_subprocess(sys.exit)


def read_stdin() -> bytes:
    return subprocess.run(["cat"], stdout=subprocess.PIPE, timeout=60, check=True).stdout


class Reader(gym.Wrapper[Any, Any, Any, Any]):
    """Starts what reads stdin, at each reset."""

    def reset(self, **kwargs: Any) -> Any:
        assert read_stdin() == b""
        return self.env.reset(**kwargs)


def reader() -> Any:
    return Reader(gym.make("CartPole-v1"))


@pytest.mark.slow
@third_slow("kills")
def test_programs_of_an_environment_get_an_empty_stdin(tmp_path: Path) -> None:
    record(gym.make("CartPole-v1"), tmp_path, 3)
    with trajrec.open(tmp_path) as corpus:
        assert [
            report.grade for report in replay_episodes(corpus.episodes(), env=reader, jobs=2)
        ] == ["exact"] * 3
        branches = fork_many(
            next(corpus.episodes()),
            at=[0, 1],
            actions=[0],
            env=reader,
            jobs=2,
            restore="reexecute",
            folder=None,
        )
        assert [branch.error for branch in branches] == ["", ""]
    assert call_in_subprocess(read_stdin) == b""


class Endless(gym.Wrapper[Any, Any, Any, Any]):
    """Never comes back from a reset; says in a file which process it is in."""

    def reset(self, **kwargs: Any) -> Any:
        Path(os.environ["TRAJREC_TEST_FOLDER"], str(os.getpid())).touch()
        while True:
            pass


def endless() -> Any:
    return Endless(gym.make("CartPole-v1"))


CALLERS = {
    "worker": "list(trajrec.replay.replay_episodes(corpus.episodes(), env=test_processes.endless, jobs=2))",
    "alone": "trajrec.replay.processes.child.call_in_subprocess(lambda: test_processes.endless().reset())",
}


@pytest.mark.slow
@third_slow("kills")
@pytest.mark.skipif(
    sys.platform != "linux",
    reason="elsewhere processes see that their caller is gone when they read",
)
@pytest.mark.parametrize("kind", CALLERS)
def test_busy_process_ends_with_its_killed_caller(tmp_path: Path, kind: str) -> None:
    record(gym.make("CartPole-v1"), tmp_path / "runs")
    (tmp_path / "found").mkdir()
    script = f"import sys, trajrec, trajrec.replay, test_processes; corpus = trajrec.open(sys.argv[1]); {CALLERS[kind]}"
    variables = {**os.environ, "TRAJREC_TEST_FOLDER": str(tmp_path / "found")}
    place = Path(__file__).parent
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "runs")], env=variables, cwd=place
    ) as caller:
        deadline = time.monotonic() + 60
        while not (paths := list((tmp_path / "found").iterdir())) and time.monotonic() < deadline:
            time.sleep(0.05)
        caller.send_signal(signal.SIGKILL)
    (process_id,) = (int(path.name) for path in paths)
    is_gone = wait_until_gone(process_id)
    if not is_gone:
        os.kill(process_id, signal.SIGKILL)
    assert is_gone


class Forking(gym.Wrapper[Any, Any, Any, Any]):
    """Forks a process that sleeps, and ends its own."""

    def step(self, action: Any) -> Any:
        if action == 7:
            if not os.fork():
                time.sleep(300)
                os._exit(0)
            os.abort()
        return self.env.step(action)


def forking() -> Any:
    return Forking(gym.make("CartPole-v1"))


@pytest.mark.slow
@third_slow("kills")
def test_ended_branch_is_noticed_although_its_fork_runs(tmp_path: Path) -> None:
    record(gym.make("CartPole-v1"), tmp_path)
    with trajrec.open(tmp_path) as corpus:
        episode = next(corpus.episodes())
        start = time.monotonic()
        dead = fork_many(
            episode, at=[0, 1], actions=[7], env=forking, restore="os_fork", folder=None
        )
        assert [branch.error for branch in dead] == ["its process was ended by SIGABRT"] * 2
        alive = fork_many(
            episode, at=[0, 1], actions=[0], env=forking, restore="os_fork", folder=None
        )
        assert [branch.error for branch in alive] == ["", ""]
    assert time.monotonic() - start < 120


def sleep_and_abort(_: int) -> None:
    if not os.fork():
        time.sleep(300)
        os._exit(0)
    os.abort()


@pytest.mark.slow
def test_ended_worker_is_noticed_although_its_fork_runs() -> None:
    start = time.monotonic()
    (died,) = map_ordered(sleep_and_abort, [1], 1)
    assert isinstance(died, WorkerDied)
    assert died.why == "its worker ended 2 times: by SIGABRT"
    assert time.monotonic() - start < 120


class Quitting(gym.Wrapper[Any, Any, Any, Any]):
    """Wants to end the process at its third step, and at any that is given 7."""

    n = 0

    def reset(self, **kwargs: Any) -> Any:
        self.n = 0
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        self.n += 1
        if self.n == 3 or action == 7:
            sys.exit(3)
        return self.env.step(action)


def quitting() -> Any:
    return Quitting(gym.make("CartPole-v1"))


@pytest.mark.slow
@third_slow("kills")
@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_exit_of_an_environment_ends_only_the_episode(tmp_path: Path, jobs: int) -> None:
    record(gym.make("CartPole-v1"), tmp_path)
    with trajrec.open(tmp_path) as corpus:
        episodes = list(corpus.episodes())
        (report,) = replay_episodes(episodes, env=quitting, explain=False, jobs=jobs)
        assert (report.grade, report.divergence.step, report.divergence.field) == (
            "diverged",
            2,
            "failure",
        )
        assert report.divergence.actual == "builtins.SystemExit: 3"
        (forced,) = replay_episodes(episodes, env=quitting, explain=False, jobs=jobs, resync=True)
        assert forced.divergence.actual == "builtins.SystemExit: 3"
        for restore in ("reexecute", "snapshot", "os_fork"):
            branches = fork_many(
                episodes[0],
                at=[0, 1],
                actions=[0, 7],
                env=quitting,
                restore=restore,
                jobs=jobs,
                # The recorded environment does not quit.
                control=False,
            )
            assert [branch.error for branch in branches] == ["builtins.SystemExit: 3"] * 2
            assert [branch.n_steps for branch in branches] == [1, 1]
            # What is recorded of it comes out again, the exit too.
            children = [corpus.episode(branch.episode_id or "") for branch in branches]
            assert [r.grade for r in replay_episodes(children, env=quitting, jobs=jobs)] == [
                "exact"
            ] * 2


def exits(_: Any) -> int:
    sys.exit(3)


def interrupts(_: Any) -> int:
    raise KeyboardInterrupt


@pytest.mark.slow
@third_slow("kills")
@pytest.mark.parametrize(
    ("policy", "name"), [(exits, "SystemExit: 3"), (interrupts, "KeyboardInterrupt: ")]
)
def test_recorded_exit_is_not_raised_in_the_caller(tmp_path: Path, policy: Any, name: str) -> None:
    record(gym.make("CartPole-v1"), tmp_path)
    with (
        trajrec.open(tmp_path) as corpus,
        pytest.raises(RecordedError, match=f"raised in another process: {name}"),
    ):
        fork_many(
            next(corpus.episodes()),
            at=[0, 1],
            policy=policy,
            restore="reexecute",
            jobs=2,
            folder=None,
        )


def thread_variables(_: int) -> list[str | None]:
    return [os.environ.get(f"{name}_NUM_THREADS") for name in ("OMP", "MKL", "OPENBLAS")]


@pytest.mark.slow
def test_workers_share_the_cores_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP", "MKL", "OPENBLAS"):
        monkeypatch.delenv(f"{name}_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert set(thread_limits(2).values()) == {"4"}
    assert set(thread_limits(16).values()) == {"1"}
    # What the caller has set stays.
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    (seen,) = map_ordered(thread_variables, [0], 1, settings=thread_limits(2))
    assert seen == ["4", "3", "4"]


def square(number: int) -> int:
    """Return the square; 13 raises."""
    if number == 13:
        raise ValueError("unlucky")
    return number * number


@pytest.mark.slow
@third_slow("kills")
def test_a_pool_keeps_its_workers_for_all_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Worker] = []

    class Counted(Worker):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            started.append(self)

    monkeypatch.setattr("trajrec.replay.processes.workers.Worker", Counted)
    with contextlib.closing(WorkerPool[int, int](square, 2)) as pool:
        for first in (0, 10, 20):
            numbers = range(first, first + 3)
            assert list(pool.map(numbers)) == [number * number for number in numbers]
        assert len(started) == 2
        with pytest.raises(ValueError, match="unlucky"):
            list(pool.map([1, 13, 2, 3, 4]))
        # Workers that may still be busy with a round that was broken off are not asked again.
        assert list(pool.map([5, 6])) == [25, 36]
        first_only = pool.map(range(40))
        assert next(first_only) == 0
        first_only.close()
        assert list(pool.map([7])) == [49]


class TwoPartError(Exception):
    """Takes two arguments and passes one on, so its pickle cannot be loaded."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")


def fail_in_two_parts(item: int) -> int:
    raise TwoPartError("cannot count", f"it is {item}")


def test_exception_that_cannot_be_unpickled_is_still_told() -> None:
    with pytest.raises(RecordedError, match="cannot count: it is 3") as raised:
        list(map_ordered(fail_in_two_parts, [3], 1))
    assert raised.value.type_name == "test_processes.TwoPartError"
    assert "test_processes.TwoPartError" in "".join(raised.value.__notes__)


BUSY = """
import os, time
def main():
    from trajrec.replay.processes.child import ChildChannel
    time.sleep(0.5)
    open("began", "w").write(str(os.getpid()))
    ChildChannel()
    time.sleep(600)
"""

KILLED = """
import os, signal
from trajrec.replay.processes.child import ChildProcess
ChildProcess("busy:main")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the signal of a parent's end is Linux's own")
def test_a_worker_whose_caller_was_killed_at_its_start_ends(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(BUSY)
    run = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, timeout=60)
    assert run.returncode == -signal.SIGKILL
    began = tmp_path / "began"
    deadline = time.monotonic() + 30
    while not (began.exists() and began.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert wait_until_gone(int(began.read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="the signal of a parent's end is Linux's own")
@pytest.mark.filterwarnings("ignore:.*fork")
@pytest.mark.parametrize("is_orphan", [False, True])
def test_a_forked_child_of_an_ended_process_ends_itself(is_orphan: bool) -> None:
    read_end, write_end = os.pipe()
    process_id = os.fork()
    if not process_id:
        server_id = os.getpid()
        if not os.fork():
            while is_orphan and os.getppid() == server_id:
                time.sleep(0.01)
            die_with_parent()
            end_if_orphan(server_id)
            os.write(write_end, b"lives")
            os._exit(0)
        if not is_orphan:
            os.wait()
        os._exit(0)
    os.close(write_end)
    os.waitpid(process_id, 0)
    with os.fdopen(read_end, "rb") as pipe:
        assert pipe.read() == (b"" if is_orphan else b"lives")


def test_a_worker_that_cannot_be_waited_for_ends_with_all_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Full(selectors.DefaultSelector):
        def register(self, *arguments: Any) -> Any:
            started.append(arguments[2].process)
            if len(started) == 2:
                raise OSError("no more can be waited for")
            return super().register(*arguments)

    monkeypatch.setattr(selectors, "DefaultSelector", Full)
    with pytest.raises(OSError, match="no more can be waited for"):
        list(map_ordered(abs, range(4), 2))
    assert [process.poll() is None for process in started] == [False, False]
