"""Restoring of live objects from plain data, in place, because other objects refer to them."""

from __future__ import annotations

from typing import Any

from trajrec.errors import RestoreError
from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.codec import Plain
from trajrec.values.diff import is_same
from trajrec.values.json import describe_path
from trajrec.values.objects import all_fields
from trajrec.values.paths import Path, key_id, keys_by_id
from trajrec.values.plain import PLAIN_TYPES


def assign(live: Value, wanted: Value, path: Path = ()) -> None:
    """Make a live value equal to plain data, as a tracker returned it.

    Dicts, lists and objects are changed in place. Values that are new in `live` are plain data, so
    an object of a class cannot be missing from it.

    Args:
        live: The value to change.
        wanted: The data that it must equal.
        path: The path of `live` in the state, for error messages.

    Raises:
        RestoreError: A value cannot be changed in place; names its path.

    >>> shop = {"stock": [3, 1]}
    >>> stock = shop["stock"]
    >>> assign(shop, {"stock": [3, 0, 7]})
    >>> stock
    [3, 0, 7]
    """
    if type(live) is dict and isinstance(wanted, dict):
        _assign_dict(live, wanted, path)
        return
    if type(live) is list and isinstance(wanted, (list, tuple)):
        _assign_list(live, wanted, path)
        return
    fields = all_fields(live)
    has_fields = fields is not live
    if has_fields and isinstance(wanted, dict) and fields.keys() == wanted.keys():
        for name, value in wanted.items():
            _set_attribute(live, name, fields[name], value, (*path, name))
    elif not is_same(live, wanted):
        raise RestoreError(
            f"{describe_path(path) or 'the state'}: a {codec.type_name(live)} cannot be changed in "
            "place; replay without resync"
        )


def _assign_dict(live: dict[Any, Any], wanted: dict[Any, Any], path: Path) -> None:
    example = next(iter(live.values()), None)
    live_keys = keys_by_id(live) or {}
    items = {}
    for key, value in wanted.items():
        own_id = key_id(key)
        if own_id in live_keys:
            # The live key, which may be an object that the data holds as plain data.
            live_key = live_keys[own_id]
            items[live_key] = _restored(live[live_key], value, (*path, key))
        else:
            items[_made(key, (*path, key))] = _added(example, value, (*path, key))
    # Filled anew, because the order of the keys counts too.
    live.clear()
    live.update(items)


def _assign_list(live: list[Any], wanted: Any, path: Path) -> None:
    example = next(iter(live), None)
    live[:] = [
        _restored(live[index], value, (*path, index))
        if index < len(live)
        else _added(example, value, (*path, index))
        for index, value in enumerate(wanted)
    ]


def _restored(live: Value, wanted: Value, path: Path) -> Value:
    """Return the value to put in the place of a live one: itself, changed, if it can be changed."""
    is_same_container = (type(live) is dict and isinstance(wanted, dict)) or (
        type(live) is list and isinstance(wanted, list)
    )
    if not is_same_container and (type(live) in PLAIN_TYPES or type(live) in (dict, list)):
        return wanted
    if type(live) is tuple and isinstance(wanted, (list, tuple)):
        items = list(live)
        _assign_list(items, wanted, path)
        return tuple(items)
    assign(live, wanted, path)
    return live


def _added(example: Value, wanted: Value, path: Path) -> Value:
    """Return the value of a new item, if the items beside it are plain data like it."""
    if example is not None and all_fields(example) is not example:
        raise _missing_object(path, codec.type_name(example))
    return _made(wanted, path)


def _made(wanted: Value, path: Path) -> Value:
    """Return a new key or value, if it holds no object of a class."""
    if isinstance(wanted, Plain):
        raise _missing_object(path, wanted.type_name)
    if isinstance(wanted, dict):
        for key, value in wanted.items():
            _made(key, (*path, key))
            _made(value, (*path, key))
    elif isinstance(wanted, (list, tuple, set, frozenset)):
        for index, value in enumerate(wanted):
            _made(value, (*path, index))
    return wanted


def _missing_object(path: Path, type_name: str) -> RestoreError:
    return RestoreError(
        f"{describe_path(path)}: an object of class {type_name} is missing, and it cannot be made "
        "from plain data; replay without resync"
    )


def _set_attribute(live: Value, name: str, before: Value, wanted: Value, path: Path) -> None:
    value = _restored(before, wanted, path)
    if value is not before:
        try:
            # `object`'s: a frozen dataclass refuses its own.
            object.__setattr__(live, name, value)
        except AttributeError as exc:
            raise RestoreError(f"{describe_path(path)}: {exc}") from exc
