"""Puts plain data, as a tracker gave it, back into live objects, in place: others hold references to them."""

from __future__ import annotations

from typing import Any

from trajrec.errors import RestoreError
from trajrec.values import codec
from trajrec.values.diff import is_same, join
from trajrec.values.objects import all_fields

_PLAIN = frozenset((str, int, float, bool, type(None), bytes))


def assign(live: Any, wanted: Any, path: str = "") -> None:
    """Make a live value equal to plain data.

    Dicts, lists and objects are changed in place. What is new is plain data, so nothing may be missing that is an
    object of a class.

    >>> shop = {"stock": [3, 1]}
    >>> stock = shop["stock"]
    >>> assign(shop, {"stock": [3, 0, 7]})
    >>> stock
    [3, 0, 7]

    Raises:
        RestoreError: It cannot be changed so; names the path.
    """
    if type(live) is dict and isinstance(wanted, dict):
        _assign_dict(live, wanted, path)
    elif type(live) is list and isinstance(wanted, (list, tuple)):
        _assign_list(live, wanted, path)
    elif (
        (fields := all_fields(live)) is not live
        and isinstance(wanted, dict)
        and fields.keys() == wanted.keys()
    ):
        for name, value in wanted.items():
            _set(live, name, fields[name], value, path)
    elif not is_same(live, wanted):
        raise RestoreError(
            f"{path or 'the state'}: a {codec.type_name(live)} cannot be changed in place"
        )


def _assign_dict(live: dict[Any, Any], wanted: dict[Any, Any], path: str) -> None:
    example = next((value for value in live.values()), None)
    for key in [key for key in live if key not in wanted]:
        del live[key]
    found = {}
    for key, value in wanted.items():
        found[key] = (
            _given(live[key], value, join(path, key))
            if key in live
            else _new(example, value, join(path, key))
        )
    live.clear()
    live.update(found)


def _assign_list(live: list[Any], wanted: Any, path: str) -> None:
    example = next(iter(live), None)
    live[:] = [
        _given(live[k], value, join(path, k))
        if k < len(live)
        else _new(example, value, join(path, k))
        for k, value in enumerate(wanted)
    ]


def _given(live: Any, wanted: Any, path: str) -> Any:
    """Return what belongs in the place of a live value: itself, changed, where that can be."""
    is_same_kind = (type(live) is dict and isinstance(wanted, dict)) or (
        type(live) is list and isinstance(wanted, list)
    )
    if not is_same_kind and (type(live) in _PLAIN or type(live) in (dict, list)):
        return wanted
    if type(live) is tuple and isinstance(wanted, (list, tuple)):
        return tuple(wanted)
    assign(live, wanted, path)
    return live


def _new(example: Any, wanted: Any, path: str) -> Any:
    if example is not None and all_fields(example) is not example:
        raise RestoreError(
            f"{path}: it is missing, and would have to be a {codec.type_name(example)}"
        )
    return wanted


def _set(live: Any, name: str, before: Any, wanted: Any, path: str) -> None:
    value = _given(before, wanted, join(path, name))
    if value is not before:
        try:
            object.__setattr__(live, name, value)
        except AttributeError as exc:
            raise RestoreError(f"{join(path, name)}: {exc}") from exc
