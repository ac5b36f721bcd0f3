"""A process that is out of memory says so in one line, and takes no sound log for a damaged one."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

import trajrec
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.main import main
from trajrec.corpus.index import file as index_file
from trajrec.log import records
from trajrec.log.reader import LogReader
from trajrec.values import codec, database
from trajrec.values.decoder import Decoder
from trajrec.values.memory import is_out_of_memory

SAMPLES = Path(__file__).resolve().parent.parent / "sample_trajectories"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="limits of addresses are those of Linux")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(SAMPLES / "won-shop.trj", folder)
    return folder


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [200_000, 700_000])
@pytest.mark.parametrize("command", ["index", "ls", "sql", "doctor", "verify"])
def test_too_few_addresses_are_told_in_one_line(runs: Path, command: str, kilobytes: int) -> None:
    query = '"SELECT 1"' if command == "sql" else ""
    line = f"ulimit -v {kilobytes}; {sys.executable} -m trajrec {command} {runs} {query}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    if kilobytes == 200_000 and command in ("index", "ls", "sql"):
        assert done.returncode == ExitStatus.EXCEPTION
        assert done.stderr.startswith("trajrec: out of memory (")
        assert done.stderr.count("\n") == 1


def test_a_second_attempt_keeps_within_the_limit_of_the_process(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[str] = []
    whole_update = index_file._update

    def update(con: duckdb.DuckDBPyConnection, *arguments: Any) -> None:
        limits.extend(*con.execute("SELECT current_setting('memory_limit')").fetchall())
        if len(limits) == 1:
            raise duckdb.OutOfMemoryException("Out of Memory Error")
        whole_update(con, *arguments)

    # As `ulimit -v` does.
    monkeypatch.setattr(database, "_within_limits", lambda: {"memory_limit": "256MiB"})
    monkeypatch.setattr(index_file, "_update", update)
    assert index_file.update_index(runs)
    (few,) = (
        duckdb.connect(config={"memory_limit": index_file.MEMORY_LIMIT})
        .sql("SELECT current_setting('memory_limit')")
        .fetchall()
    )
    assert limits == [*few, "256.0 MiB"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
        ImportError("_duckdb.so: failed to map segment from shared object"),
        duckdb.OutOfMemoryException(
            "Out of Memory Error: Allocation failure\n\nPossible solutions"
        ),
    ],
)
def test_each_error_of_short_memory_is_one_line(
    runs: Path,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        try:
            raise error
        finally:
            # An error of cleaning up hides the first one.
            if isinstance(error, MemoryError):
                raise KeyError("result")

    monkeypatch.setattr(index_file, "update_index", fail)
    assert main(["index", str(runs)]) == ExitStatus.EXCEPTION
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("trajrec: out of memory")
    assert "ulimit -v" in line


@pytest.mark.parametrize("error", [MemoryError(), ValueError("another")])
def test_an_object_without_memory_for_its_end_prints_nothing(
    runs: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[BaseException | None] = []

    class Ending:
        def __del__(self) -> None:
            raise error

    def update(*_: Any, **__: Any) -> None:
        Ending()
        raise MemoryError

    monkeypatch.setattr(sys, "unraisablehook", lambda args: told.append(args.exc_value))
    monkeypatch.setattr(index_file, "update_index", update)
    assert main(["index", str(runs)]) == ExitStatus.EXCEPTION
    assert told == ([] if isinstance(error, MemoryError) else [error])


def test_other_errors_are_not_taken_for_short_memory() -> None:
    for error in (RuntimeError("no"), OSError(errno.ENOSPC, "No space left"), ValueError("memory")):
        assert not is_out_of_memory(error)


def short(*_: Any) -> Any:
    raise MemoryError


def test_short_memory_makes_no_log_a_damaged_one(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = runs / "won-shop.trj"
    with monkeypatch.context() as patch:
        patch.setattr(records, "decode_chunk", short)
        with pytest.raises(MemoryError), LogReader(path) as reader:
            [reader.chunk(index) for index in range(1, len(reader.frames))]
        with pytest.raises(MemoryError):
            trajrec.open(runs)
    with trajrec.open(runs) as corpus:
        assert corpus.sql("SELECT damage FROM logs").fetchall() == [(None,)]
        assert corpus.sql("SELECT count(*) FROM steps").fetchall() != [(0,)]


def test_short_memory_makes_no_value_a_malformed_one() -> None:
    decoder = Decoder()

    class Short:
        decode = staticmethod(short)

    decoder._msgpack = Short()  # type: ignore[assignment]
    with pytest.raises(MemoryError):
        decoder.decode(codec.encode([1]))
