"""The main function of the process in which queries of somebody else run.

It reads requests from its stdin: first the folder and the limits, then queries. To each query it
answers with lines of JSON, and writes the rows into a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

import duckdb

from trajrec.corpus.index.live import LiveIndex
from trajrec.corpus.query_process import LENGTH, Answer, Request, Setting
from trajrec.corpus.sandbox import Sandbox, first_lines, too_large
from trajrec.errors import QueryError, TrajrecError
from trajrec.values.database import connect

Requests: TypeAlias = queue.SimpleQueue[Request]

_SLACK = 256 << 20
"""Bytes that a query may use beyond what DuckDB counts: stacks of threads, buffers of rows."""

_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


class _Rows:
    """The rows of a query, as another instance of DuckDB in this process can read them."""

    def __init__(self, relation: duckdb.DuckDBPyRelation) -> None:
        self._relation = relation

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._relation.__arrow_c_stream__()


def main(results: str) -> None:
    """Run queries until stdin ends.

    Args:
        results: The folder of the files, which is deleted at the end: whoever asks may have been
            killed.
    """
    source = sys.stdin.buffer
    requests: Requests = queue.SimpleQueue()
    out = os.fdopen(os.dup(1), "wb")
    setting: Setting = pickle.loads(_frame(source, results))
    threading.Thread(target=_read, args=(source, requests, results), daemon=True).start()
    index: LiveIndex | None = None
    # The closed instance writes no file, so another one does.
    writer = connect(threads=1)
    writer.execute("SET TimeZone = 'UTC'; SET arrow_lossless_conversion = true")
    while True:
        request = requests.get()
        try:
            if index is None:
                index = LiveIndex(
                    Path(setting.folder),
                    scan=setting.scan,
                    progress=None,
                    sandbox=setting.sandbox,
                    cost=setting.cost,
                )
            index.refresh()
            index.prepare(request.query)
            _say(out, {"is_ready": True})
            answer = _run(index, request, setting.sandbox, writer)
        except TrajrecError as exc:
            answer = {"error": str(exc)}
        except (duckdb.OutOfMemoryException, MemoryError):
            answer = {"error": str(too_large(setting.sandbox))}
        except duckdb.Error as exc:
            answer = {"error": first_lines(exc)}
        _say(out, answer)


def _run(
    index: LiveIndex, request: Request, sandbox: Sandbox, writer: duckdb.DuckDBPyConnection
) -> Answer:
    """Run a query, and write its rows to the file."""
    with _limited(_memory_bytes(index.con)):
        relation = index.sql_here(request.query, request.params, sandbox)
        _write(writer, relation, request.file)
        return {"names": relation.columns}


def _frame(source: BinaryIO, results: str) -> bytes:
    """Return the next request; end this process with the one that sends them."""
    header = source.read(LENGTH.size)
    if len(header) < LENGTH.size:
        shutil.rmtree(results, ignore_errors=True)
        # At once, since a query may be under way.
        os._exit(0)
    (size,) = LENGTH.unpack(header)
    return source.read(size)


def _read(source: BinaryIO, requests: Requests, results: str) -> None:
    while True:
        requests.put(pickle.loads(_frame(source, results)))


def _say(out: BinaryIO, answer: Answer) -> None:
    out.write(json.dumps(answer).encode() + b"\n")
    out.flush()


def _write(writer: duckdb.DuckDBPyConnection, relation: duckdb.DuckDBPyRelation, file: str) -> None:
    """Write the rows of a query to a file of DuckDB, with columns c0, c1, ..."""
    rows = _Rows(relation)
    assert rows is not None
    # Two columns of a query may have one name.
    names = ", ".join(f"c{k}" for k in range(len(relation.columns)))
    writer.execute(f"ATTACH '{file.replace(chr(39), chr(39) * 2)}' AS file")
    try:
        writer.execute(f"CREATE TABLE file.result AS SELECT * FROM rows AS r({names})")
    finally:
        writer.execute("DETACH file")


def _memory_bytes(con: duckdb.DuckDBPyConnection) -> int:
    """Return the limit of memory of an instance of DuckDB."""
    (text,) = con.execute("SELECT current_setting('memory_limit')").fetchone() or ("",)
    match = re.fullmatch(r"([0-9.]+) (\w+)", text)
    if match is None or match[2] not in _UNITS:
        raise QueryError(f"memory is limited to {text!r}, which is no size")
    return int(float(match[1]) * _UNITS[match[2]])


@contextlib.contextmanager
def _limited(size: int) -> Iterator[None]:
    """Let this process have as many more bytes, and not one that exceeds them by far.

    On Linux alone: other systems have no such limit, or do not hold to it.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[5])
    most = pages * resource.getpagesize() + size + _SLACK
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft != resource.RLIM_INFINITY:
        most = min(most, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
