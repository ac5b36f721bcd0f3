"""Recover and compact replace a log whole or not at all, whoever kills them or runs beside them."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from conftest import run
from test_crash import Rows, assert_within, read
from tiers import Share, suite, third_slow

import trajrec
from trajrec.errors import LogError
from trajrec.log import exclusive, locks
from trajrec.log.compaction import compact
from trajrec.log.reader import LogReader
from trajrec.log.repair import recover
from trajrec.log.rewriting import rewriting

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of a small log: sealed, with a damaged frame, and as a killed writer leaves it."""
    folder = tmp_path_factory.mktemp("logs")
    env = trajrec.record(gym.make("FrozenLake-v1"), folder)
    for k in range(4):
        run(env, 2, seed=0 if k == 0 else None)
        env.flush()
    env.close()
    sealed = env.path.read_bytes()
    with LogReader(env.path) as reader:
        whole = reader.slice(0, reader.frames[-1].end)
        entry = reader.frames[2]
    damaged = bytearray(sealed)
    damaged[entry.offset + entry.size // 2] ^= 0xFF
    return {"sealed": sealed, "damaged": bytes(damaged), "torn": whole[:-7]}


def put(folder: Path, data: bytes, mode: int = 0o640) -> Path:
    """Write a log into a new folder."""
    folder.mkdir()
    path = folder / "x.trj"
    path.write_bytes(data)
    path.chmod(mode)
    return path


def others(path: Path) -> list[str]:
    """Return the names of the files beside a log."""
    return sorted(name for name in os.listdir(path.parent) if name != path.name)


COMMANDS = {"damaged": "recover", "torn": "recover", "sealed": "compact"}

KILLER = """
import json, os, signal, sys, time
from trajrec.log import compaction, exclusive, repair, rewriting, sealing

FILES = {module.__file__ for module in (compaction, exclusive, repair, rewriting, sealing)}

def trace(frame, event, argument):
    global left
    if frame.f_code.co_filename not in FILES:
        return None
    if event == "line":
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return trace

for line in sys.stdin:
    name, path, left, start = json.loads(line)
    pid = os.fork()
    if pid == 0:
        command = {"recover": repair.recover, "compact": compaction.compact}[name]
        time.sleep(max(0, start - time.time()))
        if left:
            sys.settrace(trace)
        try:
            command(repair.Path(path))
        except trajrec.errors.LogError as exc:
            print(exc, file=sys.stderr)
            os._exit(3)
        os._exit(0)
    if left:
        os.waitpid(pid, 0)
    print(pid, flush=True)
"""


class Runner:
    """Runs commands in children of a process that has imported everything."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", "import trajrec.errors\n" + KILLER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, name: str, path: Path, *, kill_at: int = 0, start: float = 0.0) -> int:
        """Start a command; kill it before it executes so many lines, and wait for that."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([name, str(path), kill_at, start]) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.process.kill()
    runner.process.communicate()


def n_lines(name: str, data: bytes, folder: Path) -> int:
    """Return how many lines a command executes."""
    path = put(folder, data)
    files = {str(Path(exclusive.__file__).with_name(f"{name}.py")) for name in MODULES}
    n = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal n
        if frame.f_code.co_filename not in files:
            return None
        n += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        (recover if name == "recover" else compact)(path)
    finally:
        sys.settrace(before)
    return n


MODULES = ("compaction", "exclusive", "repair", "rewriting", "sealing")


@suite("log", fixed=12, drawn=60, whole=None)
@pytest.mark.parametrize("kind", COMMANDS)
@posix
def test_killed_rewrite_loses_nothing_and_can_be_repeated(
    share: Share, kind: str, logs: dict[str, bytes], tmp_path: Path, runner: Runner
) -> None:
    data = logs[kind]
    name = COMMANDS[kind]
    total = n_lines(name, data, tmp_path / "count")
    truth = read(tmp_path / "count/x.trj")
    assert truth
    n_left_old = 0
    for kill_at in share.of(range(1, total)):
        path = put(tmp_path / f"{kill_at}", data)
        runner.run(name, path, kill_at=kill_at)
        # At once: the folder has the whole log, the old one or the new one.
        assert_same(read(path), truth)
        n_left_old += path.read_bytes() == data
        (recover if name == "recover" else compact)(path)
        assert_same(read(path), truth)
        with LogReader(path) as reader:
            assert reader.is_sealed
            assert not reader.damage
        copies = [(path.parent / copy).read_bytes() for copy in others(path)]
        assert copies == ([data] if kind == "damaged" else []), kill_at
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert n_left_old > 0


def assert_same(readable: dict[int, Rows], truth: dict[int, Rows]) -> None:
    assert_within(readable, truth)
    assert sum(map(len, readable.values())) == sum(map(len, truth.values()))


@suite("log", fixed=4, drawn=20, whole=200)
@pytest.mark.parametrize("kind", COMMANDS)
@posix
def test_two_rewrites_at_once_lose_nothing(
    share: Share, kind: str, logs: dict[str, bytes], tmp_path: Path, runner: Runner
) -> None:
    assert share.size is not None
    for k in range(share.size):
        path = put(tmp_path / str(k), logs[kind])
        truth = read(path)
        start = time.time() + 0.02
        pids = [runner.run(COMMANDS[kind], path, start=start) for _ in range(3)]
        for pid in pids:
            wait_until_gone(pid)
        assert_same(read(path), truth)
        with LogReader(path) as reader:
            assert reader.is_sealed
            assert not reader.damage
        copies = [(path.parent / copy).read_bytes() for copy in others(path)]
        assert copies == ([logs[kind]] if kind == "damaged" else [])


def wait_until_gone(pid: int) -> None:
    """Wait for a child of another process: a zombie is gone too."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.005)
    raise AssertionError("the command hangs")


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.parametrize("mode", [0o600, 0o444, 0o664])
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_rewritten_log_keeps_its_mode(
    kind: str, mode: int, logs: dict[str, bytes], tmp_path: Path
) -> None:
    path = put(tmp_path / "folder", logs[kind], mode)
    (recover if kind != "sealed" else compact)(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_bytes() != logs[kind]
    for copy in others(path):
        assert stat.S_IMODE((path.parent / copy).stat().st_mode) == mode


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_rewritten_log_keeps_its_owner(logs: dict[str, bytes], tmp_path: Path) -> None:
    path = put(tmp_path / "folder", logs["damaged"], 0o600)
    os.chown(path, 65534, 65533)
    recover(path)
    compact(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65533)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_log_of_another_owner_is_left_alone_if_it_would_change_hands(
    logs: dict[str, bytes], tmp_path: Path
) -> None:
    path = put(tmp_path / "folder", logs["torn"], 0o644)
    path.parent.chmod(0o777)
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(path.parent)
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            recover(Path(path.name))
        except LogError as exc:
            os._exit(7 if "cannot be rewritten: Operation not permitted" in str(exc) else 1)
        finally:
            # The tests must not go on in two processes.
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert path.read_bytes() == logs["torn"]
    assert others(path) == []


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="needs extended attributes")
def test_rewritten_log_keeps_its_extended_attributes(
    logs: dict[str, bytes], tmp_path: Path
) -> None:
    path = put(tmp_path / "folder", logs["torn"])
    try:
        os.setxattr(path, "user.run", b"42")
    except OSError:
        pytest.skip("this file system has none")
    recover(path)
    assert os.getxattr(path, "user.run") == b"42"


def test_second_damaged_copy_does_not_overwrite_the_first(
    logs: dict[str, bytes], tmp_path: Path
) -> None:
    path = put(tmp_path / "folder", logs["damaged"])
    first = recover(path).damaged_copy
    again = bytearray(path.read_bytes())
    again[len(again) // 2] ^= 1
    path.write_bytes(again)
    second = recover(path).damaged_copy
    assert (first, second) == (path.parent / "x.trj.damaged", path.parent / "x.trj.damaged.2")
    assert first is not None
    assert second is not None
    assert first.read_bytes() == logs["damaged"]
    assert second.read_bytes() == bytes(again)


def test_damaged_copy_is_made_without_hard_links(
    logs: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    path = put(tmp_path / "folder", logs["damaged"])
    (path.parent / "x.trj.damaged").write_bytes(b"of an earlier run")
    result = recover(path)
    assert result.damaged_copy == path.parent / "x.trj.damaged.2"
    assert result.damaged_copy.read_bytes() == logs["damaged"]
    assert (path.parent / "x.trj.damaged").read_bytes() == b"of an earlier run"
    assert others(path) == ["x.trj.damaged", "x.trj.damaged.2"]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs symbolic links")
def test_link_to_a_log_stays_a_link(logs: dict[str, bytes], tmp_path: Path) -> None:
    path = put(tmp_path / "folder", logs["torn"])
    link = tmp_path / "link.trj"
    link.symlink_to("folder/x.trj")
    recover(link)
    compact(link)
    assert link.is_symlink()
    assert others(path) == []
    with LogReader(path) as reader:
        assert reader.is_sealed


def test_log_that_was_replaced_meanwhile_is_not_overwritten(
    logs: dict[str, bytes], tmp_path: Path
) -> None:
    path = put(tmp_path / "folder", logs["torn"])
    with rewriting(path) as rewrite:
        rewrite.file.write(b"new")
        path.write_bytes(b"another log")
        with pytest.raises(LogError, match="was changed while it was rewritten"):
            rewrite.commit()
    assert path.read_bytes() == b"another log"
    assert others(path) == []


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)


@pytest.mark.usefixtures("without_locks")
def test_rewrites_exclude_each_other_without_locks(
    logs: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "folder", logs["torn"])
    threads = [threading.Thread(target=recover, args=(path,)) for _ in range(3)]
    with rewriting(path):
        assert others(path) == [".x.trj.tmp", ".x.trj.tmp.lock"]
        monkeypatch.setattr(exclusive, "WAIT_S", 0.1)
        with pytest.raises(LogError, match=rf"process {os.getpid()} of .* is rewriting this log"):
            recover(path)
        monkeypatch.setattr(exclusive, "WAIT_S", 10.0)
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        assert path.read_bytes() == logs["torn"]
    for thread in threads:
        thread.join()
    assert others(path) == []
    assert recover(path).was_sealed


@pytest.mark.usefixtures("without_locks")
@posix
def test_lock_file_of_a_dead_process_is_taken_over(logs: dict[str, bytes], tmp_path: Path) -> None:
    path = put(tmp_path / "folder", logs["torn"])
    process = subprocess.Popen(["true"])
    process.wait()
    lock = path.parent / ".x.trj.tmp.lock"
    lock.write_text(f"{process.pid} {socket.gethostname()}")
    recover(path)
    assert others(path) == []


def test_a_folder_that_is_only_read_names_the_permission(
    logs: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "folder", logs["torn"])

    def refuse(name: str | Path, *_: Any) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(name))

    monkeypatch.setattr("trajrec.log.exclusive.os.open", refuse)
    with pytest.raises(LogError, match="Permission denied"):
        compact(path)


@pytest.mark.slow
def test_waiting_for_a_rewrite_ends_with_an_error(
    logs: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "folder", logs["torn"])
    monkeypatch.setattr(exclusive, "WAIT_S", 0.1)
    with rewriting(path), pytest.raises(LogError, match="is rewriting this log; try again"):
        compact(path)


@pytest.mark.slow
@third_slow("kills")
def test_compact_refuses_a_log_with_damaged_columns(logs: dict[str, bytes], tmp_path: Path) -> None:
    path = put(tmp_path / "folder", logs["sealed"])
    with LogReader(path) as reader:
        chunk = next(reader.chunks())
        frame = reader.frames[chunk.index]
    data = bytearray(logs["sealed"])
    data[frame.end - 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(LogError, match="only an undamaged sealed log is compacted"):
        compact(path)
    assert path.read_bytes() == bytes(data)
