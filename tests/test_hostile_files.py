"""A folder answers for its logs, whatever else lies in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from conftest import record
from tiers import mostly_deep

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.index import scan
from trajrec.errors import CorpusError, LogError
from trajrec.log.reader import LogReader

needs_posix = pytest.mark.skipif(
    not hasattr(os, "mkfifo") or not hasattr(signal, "alarm"), reason="needs FIFOs and signals"
)

LONGEST_S = 60


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """End a test that hangs."""
    if not hasattr(signal, "alarm"):
        yield
        return

    def stop(*_: Any) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of three episodes."""
    return record(gym.make("FrozenLake-v1"), tmp_path_factory.mktemp("good"), 3)


def make_socket(path: Path) -> None:
    # The path of a socket may have 107 bytes.
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(f"/proc/self/fd/{os.open(path.parent, os.O_RDONLY)}/{path.name}")


def make_sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)


def make_sparse_log(path: Path) -> None:
    with LogReader(next(path.parent.glob("good*"))) as reader:
        whole = reader.slice(0, reader.frames[-1].end)
    with open(path, "wb") as file:
        file.write(whole)
        file.truncate(1 << 40)


def make_bad_name(path: Path) -> None:
    name = os.fsencode(path.parent) + b"/\xff.trj"
    try:
        shutil.copy(next(path.parent.glob("good*")), name)
    except OSError:
        pytest.skip("this file system takes no such name")


def make_badly_named_folder(path: Path) -> None:
    folder = os.fsencode(path.parent) + b"/\xfe"
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("this file system takes no such name")
    shutil.copy(next(path.parent.glob("good*")), folder + b"/a.trj")


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


FILES: dict[str, Callable[[Path], Any]] = {
    "fifo": lambda path: os.mkfifo(path),
    "socket": make_socket,
    "loop": make_loop,
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to a folder": lambda path: path.symlink_to("."),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "empty": lambda path: path.touch(),
    "text": lambda path: path.write_text("hello"),
    "zeros": lambda path: path.write_bytes(bytes(1000)),
    "terabyte of nothing": make_sparse,
    "log and a terabyte of nothing": make_sparse_log,
    "bad name": make_bad_name,
    "badly named folder": make_badly_named_folder,
    "signature": lambda p: p.write_bytes(next(p.parent.glob("good*")).read_bytes()[:36]),
    "half a signature": lambda p: p.write_bytes(next(p.parent.glob("good*")).read_bytes()[:9]),
}

COMMANDS = [
    ["ls"],
    ["index"],
    ["index", "--rebuild"],
    ["sql", "SELECT count(*) FROM episodes"],
    ["replay", "--no-keep"],
    ["recover"],
    ["compact"],
    ["ls"],
]


@mostly_deep("hostile", drawn=4)
@pytest.mark.mostly_slow(1)
@needs_posix
@pytest.mark.parametrize("name", FILES)
def test_folder_answers_beside_any_file(
    name: str,
    good: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A folder that changed long ago is not listed again, and its files are only looked at.
    monkeypatch.setattr(scan, "_SETTLED_NS", 0)
    shutil.copy(good, tmp_path / "good.trj")
    FILES[name](tmp_path / "x.trj")
    before = {path.name for path in tmp_path.iterdir()}
    for command, *rest in COMMANDS:
        status = main([command, str(tmp_path), *rest])
        printed = capsys.readouterr()
        is_recovered = name == "log and a terabyte of nothing" and command in ("recover", "compact")
        assert status == (0 if is_recovered else 3) or command == "ls", (command, printed)
        assert "Traceback" not in printed.err
        assert is_recovered or "trajrec: " in printed.err or command == "ls"
        if command == "sql":
            assert "3" in printed.out.split()
    after = {path.name for path in tmp_path.iterdir()} - {".trajrec", "x.trj.damaged"}
    assert after == before
    with LogReader(tmp_path / "good.trj") as reader:
        assert len(reader.episodes()) == 3


@pytest.mark.slow
@needs_posix
def test_badly_named_files_are_listed_until_they_go(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "_SETTLED_NS", 0)
    shutil.copy(good, tmp_path / "good.trj")
    make_bad_name(tmp_path / "x.trj")
    make_badly_named_folder(tmp_path / "x.trj")
    query = "SELECT log FROM logs WHERE problem IS NOT NULL ORDER BY log"

    def problems() -> list[str]:
        with trajrec.open(tmp_path) as corpus:
            return [log for (log,) in corpus.sql(query).fetchall()]

    for _ in range(3):
        assert problems() == ["\\xfe/a.trj", "\\xff.trj"]
    shutil.rmtree(os.fsencode(tmp_path) + b"/\xfe")
    assert problems() == ["\\xff.trj"]
    os.remove(os.fsencode(tmp_path) + b"/\xff.trj")
    assert problems() == []


@needs_posix
def test_folder_with_a_bad_name_is_refused_by_name(good: Path, tmp_path: Path) -> None:
    folder = tmp_path / "\udcff"
    folder.mkdir()
    shutil.copy(good, folder)
    with pytest.raises(CorpusError, match=r"\\xff: its name is not UTF-8; rename it"):
        trajrec.open(folder)


@needs_posix
def test_folder_named_like_a_log_is_a_folder(good: Path, tmp_path: Path) -> None:
    (tmp_path / "x.trj").mkdir()
    shutil.copy(good, tmp_path / "x.trj/y.trj")
    with trajrec.open(tmp_path) as corpus:
        assert not corpus.problems()
        assert len(list(corpus.episodes())) == 3


def as_nobody(work: Callable[[], int]) -> int:
    """Run a function as another user; return its result, a small number."""
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            os._exit(work())
        finally:
            # The tests must not go on in two processes.
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_unreadable_log_and_folder_are_problems(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(good, tmp_path / "good.trj")
    shutil.copy(good, tmp_path / "x.trj").chmod(0)
    (tmp_path / "inner").mkdir(mode=0o700)
    (tmp_path / "other").mkdir()
    shutil.copy(good, tmp_path / "other/y.trj")
    (tmp_path / "other").chmod(0o744)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)

    def look() -> int:
        with trajrec.open(".") as corpus:
            problems = {problem.log: problem.reason for problem in corpus.problems()}
            is_right = problems == {
                "x.trj": "cannot be read: Permission denied",
                "inner": "the folder cannot be searched: Permission denied",
                "other/y.trj": "cannot be read: Permission denied",
            }
            return int(is_right) + 2 * int(len(list(corpus.episodes())) == 3)

    assert as_nobody(look) == 3


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_folder_below_a_closed_one_is_recorded_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "closed" / "inner"
    inner.mkdir(parents=True)
    inner.chmod(0o777)
    inner.parent.chmod(0o700)

    def work() -> int:
        record(gym.make("CartPole-v1"), Path("runs"), 2)
        with trajrec.episode("runs", task="t", watch=Path("runs")) as ep:
            ep.stop("done")
        with trajrec.open("runs") as corpus:
            return len(list(corpus.episodes()))

    # First here, since the other user may not import all modules.
    monkeypatch.chdir(tmp_path)
    assert work() == 3
    monkeypatch.chdir(inner)
    assert as_nobody(work) == 3


@pytest.mark.slow
def test_log_is_read_again_once_it_is_permitted(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(good, tmp_path / "x.trj"))
    shutil.copy(record(gym.make("CartPole-v1"), tmp_path / "inner", 1), tmp_path / "y.trj")
    shutil.rmtree(tmp_path / "inner")
    open_file = os.open

    def refuse(name: Any, *args: Any, **kwargs: Any) -> int:
        if name == path:
            raise PermissionError(13, "Permission denied")
        return open_file(name, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "access", lambda name, _: name != path)
    with trajrec.open(tmp_path) as corpus:
        assert [problem.log for problem in corpus.problems()] == ["x.trj"]
        assert len(list(corpus.episodes())) == 1
        monkeypatch.undo()
        assert len(list(corpus.episodes())) == 4
    # The index file has the problem; it is asked again too.
    with trajrec.open(tmp_path) as corpus:
        assert not corpus.problems()
        assert len(list(corpus.episodes())) == 4


def test_log_that_vanishes_is_an_error_of_the_tree(good: Path, tmp_path: Path) -> None:
    shutil.copy(good, tmp_path / "x.trj")
    shutil.copy(record(gym.make("CartPole-v1"), tmp_path / "inner", 1), tmp_path / "y.trj")
    shutil.rmtree(tmp_path / "inner")
    with trajrec.open(tmp_path) as corpus:
        episodes = corpus.episodes()
        next(episodes)
        (tmp_path / "y.trj").unlink()
        with pytest.raises(LogError, match="cannot be read"):
            list(episodes)


@needs_posix
def test_links_to_one_log_count_it_once(good: Path, tmp_path: Path) -> None:
    shutil.copy(good, tmp_path / "good.trj")
    (tmp_path / "link.trj").symlink_to("good.trj")
    with trajrec.open(tmp_path) as corpus:
        assert not corpus.problems()
        assert len(list(corpus.episodes())) == 3
