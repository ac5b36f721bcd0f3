"""The address of the corpus page: its filters, as they stand in it and as conditions of SQL."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlencode

from trajrec.corpus.index.cells import name_json
from trajrec.task_options import IS_OF_AGENT
from trajrec.types import Value

COLUMNS = ("env_id", "outcome", "ending", "task", "interface_id", "stop_reason")
"""Facets that are columns of the episodes."""

FACETS = (*COLUMNS, "replay", "error_type", "tool")
"""All facets: by the latest verdict of a replay, and by failures and calls of the episode too."""

NUMBERS = ("n_steps", "total_reward", "n_failures")
"""Columns with a histogram, which an address may limit by NAME_min and NAME_max."""

SORTS = ("episode_id", "env_id", "task", "n_steps", "total_reward", "outcome", "ending",
    "n_failures", "started_at")  # fmt: skip
"""Columns that an address may sort by."""

NULL = "none"
"""Parameter that names facets without a value: `none=outcome` selects episodes without one."""

_LIMITS = tuple(f"{name}_{end}" for name in NUMBERS for end in ("min", "max"))
_OTHERS = ("q", "forks", "probes", "all", "sort", "dir", "offset")

LISTS = {"error_type": "error_types", "tool": "tools_called"}
"""Facets that an episode may have several values of -> the column with all of them, as JSON."""


@dataclass(frozen=True)
class CorpusQuery:
    """The parameters of an address; those that it does not know are left out.

    Attributes:
        items: Name and value of each parameter, in their order.
    """

    items: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, items: Iterable[tuple[str, str]]) -> CorpusQuery:
        """Return the query of an address's parameters."""
        return cls(tuple(dict.fromkeys(item for item in items if _is_known(*item))))

    def all(self, name: str) -> list[str]:
        """Return the values of a parameter."""
        return [value for key, value in self.items if key == name]

    def one(self, name: str) -> str:
        """Return the last value of a parameter; "" without one."""
        return next((value for key, value in reversed(self.items) if key == name), "")

    def has(self, facet: str, value: str | None) -> bool:
        """Return whether a value of a facet is selected."""
        return _item(facet, value) in self.items

    def toggled(self, facet: str, value: str | None) -> str:
        """Return the address with a value of a facet selected, or no longer selected."""
        item = _item(facet, value)
        rest = [
            other for other in self.items if other not in (item, ("offset", self.one("offset")))
        ]
        return _address(rest if item in self.items else [*rest, item])

    def within(self, name: str, low: float | None, high: float | None) -> str:
        """Return the address with a number between two values; None leaves an end open."""
        limits = {f"{name}_min": low, f"{name}_max": high}
        changes = {key: "" if end is None else _number_text(end) for key, end in limits.items()}
        return self.address(offset="", **changes)

    def address(self, **changes: str) -> str:
        """Return the address with some parameters changed; "" removes one."""
        rest = [item for item in self.items if item[0] not in changes]
        return _address([*rest, *((name, value) for name, value in changes.items() if value)])

    def kept(self, *without: str) -> list[tuple[str, str]]:
        """Return the parameters that a form keeps as they are."""
        return [item for item in self.items if item[0] not in (*without, "offset")]

    def limit(self, name: str) -> float | None:
        """Return the limit of a number; None without one, or if it is no number."""
        try:
            value = float(self.one(name))
        except ValueError:
            return None
        return value if math.isfinite(value) else None

    @property
    def unread(self) -> list[str]:
        """Remarks on limits that are no numbers: they limit nothing."""
        return [
            f"{name} must be a number, got {value!r}: it limits nothing"
            for name, value in self.items
            if name in _LIMITS and self.limit(name) is None
        ]

    @property
    def offset(self) -> int:
        """The first row of the page."""
        text = self.one("offset")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0

    @property
    def sort(self) -> tuple[str, bool]:
        """The column to sort by, and whether in descending order."""
        sort = self.one("sort") if self.one("sort") in SORTS else "started_at"
        return sort, (self.one("dir") or ("desc" if sort == "started_at" else "asc")) == "desc"

    @property
    def filters(self) -> list[tuple[str, str, str]]:
        """Each filter: its name, its value in words, and the address without it."""
        found = [
            (facet, "none" if value is None else value, self.toggled(facet, value))
            for facet in FACETS
            for value in (*self.all(facet), *([None] if facet in self.all(NULL) else []))
        ]
        for name in (*_LIMITS, "q"):
            if self.one(name):
                found.append((name, self.one(name), self.address(offset="", **{name: ""})))
        return found

    def without(self, name: str) -> CorpusQuery:
        """Return the query without a facet."""
        return CorpusQuery(
            tuple(item for item in self.items if item[0] != name and item != (NULL, name))
        )

    def without_limits(self, name: str) -> CorpusQuery:
        """Return the query without the limits of a number."""
        ends = (f"{name}_min", f"{name}_max")
        return CorpusQuery(tuple(item for item in self.items if item[0] not in ends))

    @property
    def is_recorded(self) -> str:
        """The condition for the kinds of episodes that are shown, probes or not."""
        return "kind <> 'copy'" if self.one("forks") else "kind = 'rollout'"

    @property
    def kinds(self) -> str:
        """The condition for the kinds of episodes that are shown."""
        return self.is_recorded if self.one("probes") else f"{self.is_recorded} AND {IS_OF_AGENT}"

    def where(self, params: dict[str, Value]) -> str:
        """Return the condition, for the columns of `all_episodes` and `replay`.

        Args:
            params: Gets the values that the condition names.
        """
        return f"{self.kinds} AND {self.within_kinds(params)}"

    def within_kinds(self, params: dict[str, Value]) -> str:
        """Return the condition without that of the kinds."""
        return " AND ".join(self._conditions(lambda value: _named(params, value))) or "true"

    @property
    def where_text(self) -> str:
        """The same condition with its values written out, for people to read and change."""
        kinds = self.kinds.replace(" AND ", "\n    AND ")
        return "\n    AND ".join([kinds, *self._conditions(_literal)])

    def _conditions(self, put: Callable[[Value], str]) -> list[str]:
        """Return the conditions within the kinds; `put` returns the SQL that stands for a value."""
        conditions = [self._facet(facet, put) for facet in self.limited]
        for name in NUMBERS:
            for end, sign in (("min", ">="), ("max", "<=")):
                limit = self.limit(f"{name}_{end}")
                if limit is not None:
                    conditions.append(f"{name} {sign} {put(limit)}")
        if self.one("q"):
            start = put(self.one("q").lower())
            part = put(self.one("q"))
            conditions.append(
                f"(starts_with(episode_id, {start}) OR contains(coalesce(task, ''), {part}))"
            )
        return conditions

    @property
    def selects_results(self) -> bool:
        """Whether a filter selects by results, so that a share of successes would be its own."""
        limits = (f"total_reward_{end}" for end in ("min", "max"))
        return "outcome" in self.limited or any(self.limit(name) is not None for name in limits)

    @property
    def limited(self) -> list[str]:
        """The facets of which values are selected."""
        return [facet for facet in FACETS if self.all(facet) or facet in self.all(NULL)]

    def _facet(self, facet: str, put: Callable[[Value], str]) -> str:
        column = LISTS.get(facet, facet)
        values = self.all(facet)
        if facet in LISTS:
            choices = [f"contains({column}, {put(name_json(value))})" for value in values]
        else:
            choices = [f"{column} IN ({', '.join(map(put, values))})"] * bool(values)
        if facet in self.all(NULL):
            choices.append(f"{column} IS NULL")
        return f"({' OR '.join(choices)})"


def _is_known(name: str, value: str) -> bool:
    if name == NULL:
        return value in FACETS
    # A task may have an empty name; an empty field of a form limits nothing.
    return name in FACETS or (name in (*_LIMITS, *_OTHERS) and value != "")


def _item(facet: str, value: str | None) -> tuple[str, str]:
    return (NULL, facet) if value is None else (facet, value)


def _address(items: Iterable[tuple[str, str]]) -> str:
    # A lone surrogate has no bytes in UTF-8.
    text = urlencode(list(items), errors="replace")
    return f"/?{text}" if text else "/"


def _named(params: dict[str, Value], value: Value) -> str:
    """Add a value to the parameters; return its placeholder."""
    name = f"p{len(params)}"
    params[name] = value
    return f"${name}"


def _literal(value: Value) -> str:
    """Return a number or a text as SQL."""
    return _number_text(value) if isinstance(value, float) else quoted(value)


def quoted(text: str) -> str:
    """Return a text as a literal of SQL.

    >>> quoted("it's")
    "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"


def _number_text(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
