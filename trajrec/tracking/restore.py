"""Restoring of live objects from plain data, in place, because other objects refer to them."""

from __future__ import annotations

from typing import Any

from trajrec.errors import RestoreError
from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.diff import is_same, join
from trajrec.values.objects import all_fields
from trajrec.values.plain import PLAIN_TYPES


def assign(live: Value, wanted: Value, path: str = "") -> None:
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
            _set_attribute(live, name, fields[name], value, join(path, name))
    elif not is_same(live, wanted):
        raise RestoreError(
            f"{path or 'the state'}: a {codec.type_name(live)} cannot be changed in place; replay "
            "without resync"
        )


def _assign_dict(live: dict[Any, Any], wanted: dict[Any, Any], path: str) -> None:
    example = next(iter(live.values()), None)
    for key in [key for key in live if key not in wanted]:
        del live[key]
    items = {
        key: _restored(live[key], value, join(path, key))
        if key in live
        else _added(example, value, join(path, key))
        for key, value in wanted.items()
    }
    # Filled anew, because the order of the keys counts too.
    live.clear()
    live.update(items)


def _assign_list(live: list[Any], wanted: Any, path: str) -> None:
    example = next(iter(live), None)
    live[:] = [
        _restored(live[index], value, join(path, index))
        if index < len(live)
        else _added(example, value, join(path, index))
        for index, value in enumerate(wanted)
    ]


def _restored(live: Value, wanted: Value, path: str) -> Value:
    """Return the value to put in the place of a live one: itself, changed, if it can be changed."""
    is_same_container = (type(live) is dict and isinstance(wanted, dict)) or (
        type(live) is list and isinstance(wanted, list)
    )
    if not is_same_container and (type(live) in PLAIN_TYPES or type(live) in (dict, list)):
        return wanted
    if type(live) is tuple and isinstance(wanted, (list, tuple)):
        return tuple(wanted)
    assign(live, wanted, path)
    return live


def _added(example: Value, wanted: Value, path: str) -> Value:
    """Return the value of a new item, if the items beside it are plain data like it."""
    if example is not None and all_fields(example) is not example:
        raise RestoreError(
            f"{path}: an object of class {codec.type_name(example)} is missing, and it cannot be "
            "made from plain data; replay without resync"
        )
    return wanted


def _set_attribute(live: Value, name: str, before: Value, wanted: Value, path: str) -> None:
    value = _restored(before, wanted, path)
    if value is not before:
        try:
            # `object`'s: a frozen dataclass refuses its own.
            object.__setattr__(live, name, value)
        except AttributeError as exc:
            raise RestoreError(f"{path}: {exc}") from exc
