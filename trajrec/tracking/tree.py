"""A tracker of JSON-like data: the changes since the last look, and a digest of all of it.

Its cost depends on the size of the change. The data is encoded in pages of neighbouring items; only
pages whose bytes differ are decoded, and only changed records are hashed. 5 MB of data with one
changed record take 8 ms, of which 6 ms are spent on encoding the data once.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
from collections.abc import Callable

from trajrec.errors import EncodeError, RestoreError
from trajrec.tracking.nodes import Node, Undo, plain_digest
from trajrec.tracking.plain_data import NOT_PLAIN, check_plain, plain_copy
from trajrec.tracking.restore import assign
from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.codec import Plain
from trajrec.values.diff import Change, diff, first_change
from trajrec.values.json import describe_path
from trajrec.values.objects import to_plain


class Tree:
    """Watches a value of dicts, lists, numbers and texts.

    Objects are watched through their fields (dataclasses, pydantic, attrs) or their attributes. A
    value that becomes another one with the same plain data (a list that becomes a set of the same
    items) is not seen as a change.

    Args:
        read: Returns the value. It is borrowed: nothing in it is changed or kept.
        write: Puts the value into a state, where `read` returns a copy of it; None to change it in
            place.
    """

    name = "tree"
    version = 2

    LARGE_BYTES = 1 << 16
    """To encode so much plain data takes 0.1 ms. The codec takes 20 times as long."""

    def __init__(
        self, read: Callable[[], Value], write: Callable[[Value], object] | None = None
    ) -> None:
        self._read = read
        self._write = write
        # One of the two is used: plain msgpack cannot hold every value.
        self._root: Node | None = None
        self._encoded = b""
        self._is_large: bool | None = None

    @property
    def is_large(self) -> bool:
        """Whether a look at the value costs more than 0.1 ms."""
        if self._is_large is None:
            codec_bytes = 20 * len(self._encoded)
            n_bytes = codec_bytes if self._root is None else self._root.size_bytes()
            self._is_large = n_bytes > self.LARGE_BYTES
        return self._is_large

    def begin(self) -> tuple[Value, str]:
        """Return the value as plain data of its own, and its digest."""
        return self._begin(self._read())

    def update(self) -> tuple[list[Change], str]:
        """Return the changes since the last call, and the digest of the value."""
        value = self._read()
        root = self._root
        if root is None:
            encoded = _encode(value)
            if encoded == self._encoded:
                return [], codec.digest_bytes(encoded)
            # From the beginning: the value may have become plain data.
            before = codec.decode(self._encoded)
            after, digest = self._begin(value, encoded)
            return diff(before, after), digest
        changes: list[Change] = []
        undo: list[Undo] = []
        try:
            if root.is_same_kind(value):
                root.update(value, changes, undo)
                if changes:
                    self._is_large = None
                return changes, root.digest()
        except NOT_PLAIN:
            for node, state in reversed(undo):
                node.restore(state)
        before = root.value()
        after, digest = self._begin(value)
        return diff(before, after), digest

    def _begin(self, value: Value, encoded: bytes = b"") -> tuple[Value, str]:
        """Begin with a value; `encoded` are its bytes by the codec, if they are known."""
        self._is_large = None
        try:
            plain = plain_copy(value)
            check_plain([value])
            self._root = Node(plain, (), 0)
            return plain, self._root.digest()
        except NOT_PLAIN:
            # The codec is slower and holds everything, as losslessly as an action.
            self._root = None
            self._encoded = encoded or _encode(value)
            return codec.decode(self._encoded), codec.digest_bytes(self._encoded)

    def restore(self, value: Value) -> None:
        """Put the watched value into a state, so that it equals plain data of an earlier time.

        Raises:
            RestoreError: The value cannot be changed in place, or `read` returns a copy.
        """
        if self._write is None:
            assign(self._read(), value)
        else:
            self._write(copy.deepcopy(value))
        after, _ = self.begin()
        change = first_change(value, after)
        if change is not None:
            advice = "let set_state restore all that get_state returns"
            if self._write is None:
                advice = "watch the state's own objects instead of a copy"
            place = describe_path(change.path) or "the state"
            raise RestoreError(f"{place}: still differs after it was set; {advice}")


def is_digest_of(digest: str, value: Value) -> bool:
    """Return whether a tracker's digest is that of some plain data, as a log gives it back.

    True for the digest of a tree, and for `codec.digest` of the data: a tracker of your own that
    uses the latter has states that are verified, too.
    """
    with contextlib.suppress(*NOT_PLAIN):
        if plain_digest(value) == digest:
            return True
    # Changes of a log can lead to a value that nests more deeply than a log can hold.
    with contextlib.suppress(EncodeError, RecursionError):
        if codec.digest(value) == digest:
            return True
    with contextlib.suppress(*NOT_PLAIN):
        return plain_digest(_with_times(value)) == digest
    return False


def _with_times(value: Value) -> Value:
    """Return plain data with the times in it as msgpack has them.

    A time with a time zone is the one kind of object in plain data. Logs hold it as its text.
    """
    if isinstance(value, Plain):
        is_time = value.type_name == "datetime.datetime" and value.kind == "value"
        return datetime.datetime.fromisoformat(value.fields["value"]) if is_time else value
    if type(value) is dict:
        return {key: _with_times(item) for key, item in value.items()}
    return list(map(_with_times, value)) if type(value) is list else value


def _encode(value: Value) -> bytes:
    return codec.encode(to_plain(value), canonical=True, opaque=True)
