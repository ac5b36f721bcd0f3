"""Reads the rows of a log and the named values of its steps, for readers of many steps."""

from __future__ import annotations

from trajrec.log import records
from trajrec.log.reader import LogReader
from trajrec.log.schema import Chunk


class RowReader(LogReader):
    """A log whose chunks have their rows, and no events but those of named values.

    See `LogReader` for arguments and errors.
    """

    def _decode_chunk(self, data: bytes) -> Chunk:
        return records.decode_rows(data, self._format.version)
