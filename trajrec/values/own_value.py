"""A value that nobody else holds: changes are made in place, at the cost of the changes alone.

`trajrec.values.patch` copies each container on the path of a change. That is right for a value that
is shared; of a dict with 2,000 keys, it costs 100 times the change.
"""

from __future__ import annotations

from collections.abc import Sequence

from trajrec.types import Value
from trajrec.values.codec import Plain
from trajrec.values.diff import MISSING, Change
from trajrec.values.patch import Edits, edited, group_changes, split_list_edits

# Equal keys of these types have the same type and bits, so Python's own look-up finds the right one.
_DISTINCT = frozenset((str, int, bytes, type(None)))

# So many dicts are remembered as having distinct keys. They are held, so that no id is used again.
_MAX_REMEMBERED = 4096


class OwnValue:
    """A value that is changed in place.

    Attributes:
        value: The value. Nobody else may hold it, nor a part of it.
    """

    def __init__(self, value: Value) -> None:
        self.value = value
        self._distinct: dict[int, dict[Value, Value]] = {}

    def patch(self, changes: Sequence[Change]) -> None:
        """Make changes, as `trajrec.values.patch.apply` does. The values in them become its own.

        Raises:
            KeyError: A change does not fit. The value is then of no use any more.
        """
        # Most calls change one thing.
        if len(changes) != 1 or not self._replace_item(changes[0]):
            self.value = self._edit(self.value, group_changes(changes))

    def _replace_item(self, change: Change) -> bool:
        """Replace one item of a dict or list; return False if another way must be taken."""
        path = change.path
        if change.before is MISSING or change.after is MISSING or not path:
            return False
        container: Value = None
        item = self.value
        for key in path:
            container = item
            if type(container) is list:
                is_inside = type(key) is int and 0 <= key < len(container)
            elif type(container) is dict and type(key) in _DISTINCT:
                is_inside = self._is_distinct(container) and key in container
            else:
                return False
            if not is_inside:
                return False
            item = container[key]
        container[path[-1]] = change.after
        return True

    def _edit(self, value: Value, edits: Edits) -> Value:
        if edits.change is not None or not edits.below:
            return edited(value, edits)
        cls = type(value)
        if cls is dict and self._has_distinct_keys(value, edits):
            self._edit_dict(value, edits)
            return value
        if cls is list:
            self._edit_list(value, edits)
            return value
        if cls is Plain and self._has_distinct_keys(value.fields, edits):
            self._edit_dict(value.fields, edits)
            return value
        return edited(value, edits)

    def _edit_dict(self, value: dict[Value, Value], edits: Edits) -> None:
        added: list[Edits] = []
        for below in edits.below.values():
            key = below.path[-1]
            if key not in value:
                if not below.is_addition:
                    raise below.misfit()
                added.append(below)
            elif below.is_addition:
                raise below.misfit()
            elif below.is_removal:
                del value[key]
            else:
                value[key] = self._edit(value[key], below)
        # Behind the others, so that the order of the keys is that of `apply`.
        for below in added:
            assert below.change is not None
            value[below.path[-1]] = below.change.after

    def _edit_list(self, value: list[Value], edits: Edits) -> None:
        replaced, n_left, added = split_list_edits(len(value), edits)
        for index, below in replaced:
            value[index] = self._edit(value[index], below)
        del value[n_left:]
        value += added

    def _has_distinct_keys(self, value: dict[Value, Value], edits: Edits) -> bool:
        """Return whether the keys of a dict, and those of its changes, are found by look-ups."""
        if not all(type(below.path[-1]) in _DISTINCT for below in edits.below.values()):
            return False
        return self._is_distinct(value)

    def _is_distinct(self, value: dict[Value, Value]) -> bool:
        """Return whether equal keys of a dict are the same keys."""
        own_id = id(value)
        if self._distinct.get(own_id) is value:
            return True
        if not _DISTINCT.issuperset(map(type, value)):
            return False
        if len(self._distinct) >= _MAX_REMEMBERED:
            self._distinct.clear()
        self._distinct[own_id] = value
        return True
