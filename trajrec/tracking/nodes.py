"""The nodes of a tracked tree: containers cut into pages of encoded items, with their digests."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import TypeAlias

import msgspec

from trajrec.tracking.plain_data import (
    ENCODER,
    ContainerKind,
    KeyKind,
    check_plain,
    decode,
    encode,
    encode_sorted,
    key_kind,
    kind_of,
    opened,
    plain_copy,
)
from trajrec.types import Value
from trajrec.values.diff import MISSING, Change, diff
from trajrec.values.paths import Path, key_id
from trajrec.values.plain import PLAIN_TYPES

PAGE_ITEMS = 64
PAGE_BYTES = 1 << 12
NODE_BYTES = 1 << 10
"""If a page of 64 items is larger than 4 KiB, its containers above 1 KiB are watched as nodes of
their own: a change then costs the encoding of a node, not of a page of large items."""

BRANCH_ITEMS = 64
BRANCH_DEPTH = 2
"""Containers above this depth, or with more items, are digested item by item; any other is one
record. The digest is stored in logs, so these numbers belong to the tracker's version."""

_MODULUS = 1 << 256


class Node:
    """One container, or the root, cut into pages of items; its large items are nodes of their own.

    Args:
        value: Plain data, as `plain_copy` returns it.
        path: Path of the value.
        depth: Number of containers around it.

    Attributes:
        kind: "dict", "list", or None if the value is no container.
        path: Path of the value.
        depth: Number of containers around it.
        keys: Keys or indices of the items.
        key_kind: See `KeyKind`.
        subs: Nodes of the large items, by key.
        pages: The encoded pages; None stands for an item with a node of its own.
        total: The sum of the hashes of the records in it, modulo 2^256.
    """

    __slots__ = ("depth", "key_kind", "keys", "kind", "pages", "path", "subs", "total")

    def __init__(self, value: Value, path: Path, depth: int) -> None:
        self.kind = kind_of(value)
        self.path = path
        self.depth = depth
        self.keys: list[Hashable] = _keys(value)
        self.key_kind = key_kind(value)
        self.subs: dict[Hashable, Node] = {}
        self.pages: list[bytes] = []
        items = _items(value, self.kind)
        if self.kind is not None:
            for start in range(0, len(items), PAGE_ITEMS):
                page = items[start : start + PAGE_ITEMS]
                if len(encode(page)) > PAGE_BYTES:
                    for key, item in zip(self.keys[start:], page, strict=False):
                        if kind_of(item) is not None and len(encode(item)) > NODE_BYTES:
                            self.subs[key] = Node(item, (*path, key), depth + 1)
        self.pages = self._encode_pages(items, self.keys)
        self.total = self._sum(value)

    def digest(self) -> str:
        """Return the BLAKE2b-128 digest of the value, in hex."""
        return _digest(self.total)

    def size_bytes(self) -> int:
        """Return the bytes of the encoded value."""
        own = sum(map(len, self.pages))
        return own + sum(sub.size_bytes() for sub in self.subs.values())

    def is_same_kind(self, value: Value) -> bool:
        """Return whether a value is a container of the same kind."""
        return self.kind is not None and kind_of(opened(value)) == self.kind

    def value(self) -> Value:
        """Return the value at the last look, decoded from the pages."""
        items = [item for page in self.pages for item in decode(page)]
        if self.kind is None:
            return items[0]
        values = [
            self.subs[key].value() if key in self.subs else item
            for key, item in zip(self.keys, items, strict=True)
        ]
        return dict(zip(self.keys, values, strict=True)) if self.kind == "dict" else values

    def update(self, value: Value, changes: list[Change], undo: list[Undo]) -> None:
        """Take in the present value, and add the changes to `changes`.

        Args:
            value: The value, not as plain data yet.
            changes: Receives the changes.
            undo: Receives the state of each node before it changes, for `restore`: a value that is
                no plain data is noticed when it is encoded, after other nodes have changed.
        """
        undo.append((self, self._state()))
        value = opened(value)
        keys = _keys(value)
        has_same_keys = keys == self.keys
        kind = self.key_kind
        if not (has_same_keys and kind == "text"):
            kind = key_kind(value)
            if "mixed" in (kind, self.key_kind) and not _are_same(keys, self.keys):
                self._replace(value, changes)
                return
        items = _items(value, self.kind)
        was_branch = self._is_branch(len(self.keys))
        is_branch = self._is_branch(len(keys))
        n_changes = len(changes)
        done: set[Hashable] = set()
        difference = 0
        if not has_same_keys:
            present = set(keys)
            for key in [key for key in self.subs if key not in present]:
                sub = self.subs.pop(key)
                changes.append(Change(sub.path, sub.value(), MISSING))
                difference -= sub.total
                done.add(key)
        difference += self._update_subs(keys, items, changes, undo, done)
        difference += self._update_pages(keys, items, changes, done)
        if len(changes) == n_changes and has_same_keys:
            return
        self.keys = keys
        self.key_kind = kind
        if was_branch and is_branch:
            self.total = (self.total + difference) % _MODULUS
        else:
            # A container that is one record, or was, has a hash that no difference leads to.
            self.total = self._sum(self.value())

    def restore(self, state: NodeState) -> None:
        """Take back the changes since a state that `update` put into its list."""
        self.kind, self.keys, self.key_kind, self.subs, self.pages, self.total = state

    def _state(self) -> NodeState:
        # Only `subs` is changed in place.
        return self.kind, self.keys, self.key_kind, dict(self.subs), self.pages, self.total

    def _replace(self, value: Value, changes: list[Change]) -> None:
        """Take in a value whose keys Python cannot tell from the old ones: 1 and True."""
        check_plain([value])
        after = plain_copy(value)
        changes += _below(self.path, diff(self.value(), after))
        self.restore(Node(after, self.path, self.depth)._state())

    def _update_subs(
        self,
        keys: list[Hashable],
        items: list[Value],
        changes: list[Change],
        undo: list[Undo],
        done: set[Hashable],
    ) -> int:
        """Update the large items; return the difference of their totals.

        `done` receives the keys of those that are no nodes any more.
        """
        difference = 0
        # A list's keys are its indices.
        index_of = None
        if self.subs and self.kind == "dict":
            index_of = dict(zip(keys, range(len(keys)), strict=True))
        key: Value
        for key in list(self.subs):
            sub = self.subs[key]
            item = items[key if index_of is None else index_of[key]]
            old_total = sub.total
            if sub.is_same_kind(item):
                sub.update(item, changes, undo)
                difference += sub.total - old_total
            else:
                del self.subs[key]
                done.add(key)
                check_plain([item])
                after = plain_copy(item)
                changes += _below(sub.path, diff(sub.value(), after))
                difference += record_sum(after, sub.path, self.depth + 1) - old_total
        return difference

    def _update_pages(
        self,
        keys: list[Hashable],
        items: list[Value],
        changes: list[Change],
        done: set[Hashable],
    ) -> int:
        """Update the items without nodes; return the difference of their hashes.

        `done` are keys whose changes are known already: the old pages have no items for them.
        """
        pages = self._encode_pages(items, keys)
        if pages == self.pages and keys == self.keys:
            return 0
        old, new = self._changed_items(pages, keys, items)
        self.pages = pages
        difference = 0
        for key in [*old, *(key for key in new if key not in old)]:
            if key in self.subs or key in done:
                continue
            path = (*self.path, key)
            before = old.get(key, MISSING)
            after = new.get(key, MISSING)
            is_one_sided = before is MISSING or after is MISSING
            item_changes = [Change((), before, after)] if is_one_sided else diff(before, after)
            if item_changes:
                changes += _below(path, item_changes)
                if before is not MISSING:
                    difference -= record_sum(before, path, self.depth + 1)
                if after is not MISSING:
                    difference += record_sum(after, path, self.depth + 1)
        return difference

    def _changed_items(
        self, pages: list[bytes], keys: list[Hashable], items: list[Value]
    ) -> tuple[dict[Hashable, Value], dict[Hashable, Value]]:
        """Return the items of pages that differ, by key: as they were, and as they are."""
        old: dict[Hashable, Value] = {}
        new: dict[Hashable, Value] = {}
        for index in range(max(len(pages), len(self.pages))):
            span = slice(index * PAGE_ITEMS, (index + 1) * PAGE_ITEMS)
            before = self.pages[index] if index < len(self.pages) else b""
            after = pages[index] if index < len(pages) else b""
            old_keys = self.keys[span]
            new_keys = keys[span]
            if before == after and old_keys == new_keys:
                continue
            present = [
                None if key in self.subs else item
                for key, item in zip(new_keys, items[span], strict=True)
            ]
            if old_keys == new_keys:
                first, last, old_items, new_items = _differing(before, after, present)
                old_keys = new_keys = new_keys[first:last]
                present = present[first:last]
            else:
                old_items = decode(before) if before else []
                new_items = decode(after) if after else []
            check_plain(present)
            old.update(zip(old_keys, old_items, strict=True))
            new.update(zip(new_keys, new_items, strict=True))
        return old, new

    def _encode_pages(self, items: list[Value], keys: list[Hashable]) -> list[bytes]:
        if self.subs:
            items = [
                None if key in self.subs else item for key, item in zip(keys, items, strict=True)
            ]
        old_pages = self.pages
        n_old = len(old_pages)
        pages = []
        buffer = bytearray()
        for index, start in enumerate(range(0, len(items), PAGE_ITEMS)):
            ENCODER.encode_into(items[start : start + PAGE_ITEMS], buffer)
            # A page that is the same stays the same object, so no bytes are allocated for it.
            page = old_pages[index] if index < n_old else b""
            pages.append(page if buffer == page else bytes(buffer))
        return pages

    def _is_branch(self, n_items: int) -> bool:
        return self.depth < BRANCH_DEPTH or n_items > BRANCH_ITEMS

    def _sum(self, value: Value) -> int:
        """Return the sum for the value as plain data."""
        if self.kind is None or not self._is_branch(len(self.keys)):
            return _hash(self.path, encode_sorted(value))
        total = _hash(self.path, self.kind.encode())
        for key, item in zip(self.keys, _items(value, self.kind), strict=True):
            sub = self.subs.get(key)
            if sub is None:
                total += record_sum(item, (*self.path, key), self.depth + 1)
            else:
                total += sub.total
        return total % _MODULUS


NodeState: TypeAlias = tuple[
    ContainerKind | None, list[Hashable], KeyKind, dict[Hashable, Node], list[bytes], int
]
"""The attributes of a node that an update changes."""

Undo: TypeAlias = tuple[Node, NodeState]


def _differing(
    before: bytes, after: bytes, items: list[Value]
) -> tuple[int, int, list[Value], list[Value]]:
    """Return the range of items in which two pages of equal length differ, and both contents of it.

    `items` are those of `after`. Equal bytes at either end are skipped item by item, so that only
    the range is decoded.
    """
    parts = [encode(item) for item in items]
    n_items = len(parts)
    header_bytes = len(after) - sum(map(len, parts))
    first = 0
    start = header_bytes
    while first < n_items and before[start : start + len(parts[first])] == parts[first]:
        start += len(parts[first])
        first += 1
    last = n_items
    stop = len(before)
    while (
        last > first
        and stop - len(parts[last - 1]) >= start
        and before[stop - len(parts[last - 1]) : stop] == parts[last - 1]
    ):
        stop -= len(parts[last - 1])
        last -= 1
    # msgpack's "array 16": a list of up to 65,535 items.
    header = b"\xdc" + (last - first).to_bytes(2, "big")
    try:
        old = decode(header + before[start:stop])
        new = decode(header + b"".join(parts[first:last]))
    except (msgspec.DecodeError, UnicodeDecodeError):
        # The bytes at the end were equal, but belong to other items.
        return 0, n_items, decode(before), decode(after)
    return first, last, old, new


def plain_digest(value: Value) -> str:
    """Return the digest of plain data that a tree of it has: BLAKE2b-128, in hex.

    Raises:
        TypeError: The data has a dict, below the first levels, with keys that are no texts.
    """
    return _digest(record_sum(value, (), 0))


def record_sum(value: Value, path: Path, depth: int) -> int:
    """Return the part of the digest that plain data adds: the sum of its records' hashes.

    A sum, because it does not depend on the order of the records, and one can be replaced.
    """
    kind = kind_of(value)
    if kind is None or (depth >= BRANCH_DEPTH and len(value) <= BRANCH_ITEMS):
        return _hash(path, encode_sorted(value))
    total = _hash(path, kind.encode())
    for key, item in zip(_keys(value), _items(value, kind), strict=True):
        # Most items are numbers and texts; this spares them a call.
        if type(item) in PLAIN_TYPES:
            total += _hash((*path, key), encode(item))
        else:
            total += record_sum(item, (*path, key), depth + 1)
    return total


def _digest(total: int) -> str:
    total_bytes = (total % _MODULUS).to_bytes(32, "little")
    return hashlib.blake2b(total_bytes, digest_size=16).hexdigest()


def _hash(path: Path, data: bytes) -> int:
    """Return the hash of a record and its path."""
    encoded_path = encode(path)
    # With the path's length, so that no bytes can move between path and data.
    prefix = len(encoded_path).to_bytes(4, "little") + encoded_path
    return int.from_bytes(hashlib.blake2b(prefix + data, digest_size=32).digest(), "little")


def _are_same(keys: list[Hashable], others: list[Hashable]) -> bool:
    """Return whether two lists have keys of the same type and bits, in the same order."""
    return keys == others and list(map(key_id, keys)) == list(map(key_id, others))


def _below(path: Path, changes: list[Change]) -> list[Change]:
    """Return changes of a value as changes of the root that it lies in."""
    return [change._replace(path=(*path, *change.path)) for change in changes]


def _keys(value: Value) -> list[Hashable]:
    if isinstance(value, dict):
        return list(value)
    return list(range(len(value))) if isinstance(value, (list, tuple)) else [None]


def _items(value: Value, kind: str | None) -> list[Value]:
    if kind == "dict":
        return list(value.values())
    return list(value) if kind == "list" else [value]
