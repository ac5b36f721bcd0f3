"""Runs queries that may make large values in a process of their own, which can be ended."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import duckdb

from trajrec.corpus.index.scan import ScanMode
from trajrec.corpus.sandbox import Params, Sandbox, too_large, too_long
from trajrec.errors import QueryError
from trajrec.values.database import connect

LENGTH = struct.Struct("<Q")
"""Precedes each request: its size in bytes."""

# A query that DuckDB itself can stop is stopped by it, and its process serves the next one.
_GRACE_S = 1.0

_MAIN = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from trajrec.corpus.query_child import main
main(sys.argv[2])
"""


Answer: TypeAlias = dict[str, Any]
"""A line of JSON: "is_ready" before a query runs, then the "names" of its columns or an "error"."""


class Setting(NamedTuple):
    """What a process is told when it starts."""

    folder: str
    scan: ScanMode
    sandbox: Sandbox
    cost: str


class Request(NamedTuple):
    """A query, and the file that its rows are to be written to."""

    query: str
    params: Params
    file: str


class QueryProcess:
    """A process with the tables of a folder, which runs one query at a time.

    It starts with the first query and stays, until a query exceeds its limits, or until `close`.

    Args:
        folder: The corpus.
        scan: The folders that are listed before each query.
        sandbox: The limits of the queries.
        cost: SQL for the cost of a model call whose answer gives none.
    """

    def __init__(self, folder: Path, *, scan: ScanMode, sandbox: Sandbox, cost: str) -> None:
        self._setting = Setting(str(folder.absolute()), scan, sandbox, cost)
        self._sandbox = sandbox
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def close(self) -> None:
        """End the process. Twice is harmless."""
        with self._lock:
            self._end()

    def sql(self, query: str, params: Params) -> duckdb.DuckDBPyRelation:
        """Return the rows of a query.

        Raises:
            QueryError: DuckDB rejects the query, it reaches a limit, or there is no process.
        """
        with self._lock:
            # A forked process has copies of its parent's pipes, and no such process of its own.
            if self._child is None or self._child.owner != os.getpid():
                self._child = _start(self._setting)
            file = self._child.new_file()
            try:
                return _read(file, self._ask(self._child, Request(query, params, str(file))))
            except BaseException:
                if self._child.is_asked:
                    # What it says later would be taken for the answer to the next query.
                    self._end()
                raise
            finally:
                # On Windows it stays until the process ends.
                with contextlib.suppress(OSError):
                    file.unlink()

    def _ask(self, child: _Child, request: Request) -> list[str]:
        """Have a query run; return the names of its columns."""
        child.send(request)
        # It reads new logs first, which may take any time.
        if "is_ready" in (answer := child.receive(None)):
            answer = child.receive(self._sandbox.seconds + _GRACE_S)
            if child.was_late:
                raise too_long(self._sandbox)
            if not answer:
                # The system ends a process that takes all memory.
                raise too_large(self._sandbox)
        if not answer:
            raise QueryError(
                "this query needs a process of its own, which ended before it ran the query; "
                "`trajrec sql --allow-files` runs a query that is your own without one"
            )
        if "error" in answer:
            raise QueryError(str(answer["error"]))
        return list(answer["names"])

    def _end(self) -> None:
        if self._child is not None:
            self._child.close()
        self._child = None


class _Child:
    """A Python process with pipes to it, and a folder for its results.

    Attributes:
        owner: The id of the process that started it.
        is_asked: Whether an answer is outstanding.
        was_late: Whether it was ended because an answer took too long.
    """

    def __init__(self, process: subprocess.Popen[bytes], folder: str) -> None:
        self.owner = os.getpid()
        self.is_asked = False
        self.was_late = False
        self._process = process
        self._folder = Path(folder)
        self._numbers = itertools.count()
        self._finalizer = weakref.finalize(self, _end, process, folder, self.owner)

    def close(self) -> None:
        """End the process, and delete its results. It also ends when nothing refers to it."""
        self._finalizer()

    def new_file(self) -> Path:
        """Return the name of a file that is not there yet."""
        return self._folder / f"{next(self._numbers)}.duckdb"

    def send(self, request: Setting | Request) -> None:
        """Send a request. If the process has ended, `receive` tells it."""
        data = pickle.dumps(request)
        pipe = self._process.stdin
        assert pipe is not None
        self.is_asked = True
        with contextlib.suppress(BrokenPipeError):
            pipe.write(LENGTH.pack(len(data)) + data)
            pipe.flush()

    def receive(self, seconds: float | None) -> Answer:
        """Return an answer, empty if the process has ended; end it after some seconds."""
        pipe = self._process.stdout
        assert pipe is not None
        timer = threading.Timer(seconds or 0, self._kill)
        timer.daemon = True
        if seconds is not None:
            timer.start()
        try:
            line = pipe.readline()
        finally:
            timer.cancel()
        answer: Answer = json.loads(line) if line.endswith(b"\n") else {}
        self.is_asked = "names" not in answer and "error" not in answer
        return answer

    def _kill(self) -> None:
        self.was_late = True
        self._process.kill()


def _start(setting: Setting) -> _Child:
    """Start a process that finds the same modules as this one."""
    paths = json.dumps([os.path.abspath(path) for path in sys.path])
    folder = tempfile.mkdtemp(prefix="trajrec-query-")
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _MAIN, paths, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Ctrl-C in a terminal is for this process, which then ends that one.
            start_new_session=True,
        )
    except OSError as exc:
        shutil.rmtree(folder, ignore_errors=True)
        raise QueryError(f"no process for the query could be started: {exc}") from exc
    child = _Child(process, folder)
    child.send(setting)
    return child


def _end(process: subprocess.Popen[bytes], folder: str, owner: int) -> None:
    """End a process, and delete its results."""
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            if pipe is not None:
                pipe.close()
    if os.getpid() != owner:
        return
    process.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def _read(file: Path, names: list[str]) -> duckdb.DuckDBPyRelation:
    """Return the rows of a file that a process has written."""
    # An instance for each result: it lives as long as what is derived from the rows.
    con = connect(file, access_mode="READ_ONLY", threads=1)
    con.execute("SET TimeZone = 'UTC'")
    quoted = (name.replace('"', '""') for name in names)
    columns = ", ".join(f'c{k} AS "{name}"' for k, name in enumerate(quoted))
    return con.sql(f"SELECT {columns} FROM result")
