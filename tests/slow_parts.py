"""The parts of an agent's world, read slowly: their changes and their digests.

Written from docs/reference/log-format.md alone, as `slow_values` was.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct

from slow_values import DamageError, Typed, numpy_dtype, pack, pack_plain, tag_of


def changed(value: Typed, changes: list[Typed], version: int) -> Typed:
    """Return a value after the changes of one event; the value itself stays as it was."""
    steps = [
        (operation, parsed(path) if version == 1 else list(path), sides[-1])
        for operation, path, *sides in changes
    ]
    removals = [step for step in steps if step[0] == "remove"]
    others = [step for step in steps if step[0] != "remove"]
    # Removed items of an array descend, in whatever order they were recorded.
    for operation, keys, after in [*others, *sorted(removals, key=last_number, reverse=True)]:
        value = changed_at(value, keys, operation, after)
    return value


def last_number(step: tuple[str, list[Typed], Typed]) -> int:
    """Return the index at the end of a path; 0 of a key that is none."""
    _, keys, _ = step
    last = keys[-1] if keys else 0
    if isinstance(last, str) and last.isdecimal():
        # A path of format 1 has the text of an index.
        return int(last)
    return last if type(last) is int else 0


def parsed(path: str) -> list[Typed]:
    """Return the keys of a path of format 1, as texts."""
    return [part_text(part) for part in path.split("/")] if path else []


def part_text(part: str) -> str:
    return "" if part == "~2" else part.replace("~1", "/").replace("~0", "~")


def changed_at(value: Typed, path: list[Typed], operation: str, after: Typed) -> Typed:
    """Return a value with one change at a path."""
    if not path:
        return after
    key, *rest = path
    match tag_of(value):
        case "dict":
            return {"dict": changed_pairs(value["dict"], path, operation, after)}
        case "object":
            name, kind, fields = value["object"]
            return {"object": [name, kind, changed_at(fields, path, operation, after)]}
        case "tuple":
            return {"tuple": changed_at(value["tuple"], path, operation, after)}
        case "array":
            return changed_array(value, path, after)
        case "objects":
            kind, shape, items = value["objects"]
            place = flat_index(shape, path[: len(shape)])
            rest = [place, *path[len(shape) :]]
            return {"objects": [kind, shape, changed_at(items, rest, operation, after)]}
    if not isinstance(value, list):
        raise DamageError(f"a change has no place in {value}")
    items = list(value)
    number = int(key)
    if rest or operation == "replace":
        items[number] = changed_at(items[number], rest, operation, after)
    elif operation == "add":
        items.insert(number, after)
    else:
        del items[number]
    return items


def changed_pairs(
    pairs: list[list[Typed]], path: list[Typed], operation: str, after: Typed
) -> list[list[Typed]]:
    """Return the items of a map with one change."""
    key, *rest = path
    if not rest and operation == "add":
        return [*pairs, [key, after]]
    keys = [pack(pair[0]) for pair in pairs]
    # A path of format 1 has the text of a key.
    texts = [] if pack(key) in keys else [str(pair[0]) for pair in pairs]
    number = texts.index(key) if texts else keys.index(pack(key))
    if not rest and operation == "remove":
        return pairs[:number] + pairs[number + 1 :]
    item = changed_at(pairs[number][1], rest, operation, after)
    return [*pairs[:number], [pairs[number][0], item], *pairs[number + 1 :]]


def flat_index(shape: list[int], path: list[Typed]) -> int:
    """Return the position of an item of an array in C order."""
    place = 0
    for size, index in zip(shape, path, strict=True):
        place = place * size + int(index)
    return place


def changed_array(value: Typed, path: list[Typed], after: Typed) -> Typed:
    """Return a numpy array with another item."""
    dtype, shape, data = value["array"]
    size = numpy_dtype(dtype).itemsize
    at = flat_index(shape, path) * size
    (item,) = after.values()
    return {"array": [dtype, shape, data[:at] + item[-1].ljust(size, b"\0") + data[at + size :]]}


def part_digests(value: Typed) -> list[str]:
    """Return the digests that a watched part may have."""
    digests = [hashlib.blake2b(pack(value), digest_size=16).hexdigest()]
    with contextlib.suppress(DamageError):
        total = tree_sum([], value) % (1 << 256)
        digests.append(hashlib.blake2b(total.to_bytes(32, "little"), digest_size=16).hexdigest())
    return digests


def tree_sum(path: list[Typed], value: Typed) -> int:
    """Return the sum of the digests that a value adds."""
    items = None
    if isinstance(value, list):
        items = [[number, item] for number, item in enumerate(value)]
    elif tag_of(value) == "dict":
        items = value["dict"]
    if items is None or (len(path) >= 2 and len(items) <= 64):
        return path_digest(path, pack_plain(value))
    word = b"list" if isinstance(value, list) else b"dict"
    return path_digest(path, word) + sum(tree_sum([*path, key], item) for key, item in items)


def path_digest(path: list[Typed], content: bytes) -> int:
    """Return the digest of a value at a path, as a number."""
    packed = pack_plain([key["tuple"] if tag_of(key) == "tuple" else key for key in path])
    data = struct.pack("<I", len(packed)) + packed + content
    return int.from_bytes(hashlib.blake2b(data, digest_size=32).digest(), "little")
