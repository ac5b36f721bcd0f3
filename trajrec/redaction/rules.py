"""The form of a rule, and the search for secrets whose first characters give them away."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple


class Rule(NamedTuple):
    """A kind of secret whose first characters give it away.

    Attributes:
        kind: Name of the kind, which the mark in place of the secret has.
        starts: The texts that such a secret begins with. No letter or digit comes before them.
        rest: Regular expression of the rest. The secret is all of it with its start, or its group
            "secret".
        source: The public documentation that has the form.
    """

    kind: str
    starts: tuple[str, ...]
    rest: str
    source: str


class Shape(NamedTuple):
    """A kind of secret whose form gives it away, but not its first characters.

    Attributes:
        kind: Name of the kind.
        sign: A text that is in each such secret or beside it. The search begins with it.
        pattern: Regular expression. The secret is its group "secret", or all of it without one.
        source: The public documentation that has the form.
        before: How many bytes before the sign a match may begin.
        check: Returns whether a match is a secret, if the pattern alone does not say so.
    """

    kind: str
    sign: str
    pattern: str
    source: str
    before: int = 0
    check: Callable[[str], bool] | None = None


_FEW_BYTES = 12


class TokenSearch:
    """Searches for the secrets of many rules at once.

    Args:
        rules: The rules.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._by_start: dict[bytes, list[tuple[str, str]]] = {}
        for rule in rules:
            for start in rule.starts:
                self._by_start.setdefault(start.encode(), []).append((rule.kind, rule.rest))
        # The patterns behind a start, compiled when it first occurs: all of them take 40 ms.
        self._patterns: dict[bytes, list[tuple[str, re.Pattern[bytes]]]] = {}

    @functools.cached_property
    def _starts(self) -> re.Pattern[bytes]:
        return re.compile(trie(self._by_start))

    @functools.cached_property
    def _inner_starts(self) -> re.Pattern[bytes]:
        # A separator first: `re` skips to the next one much faster than it tries a look-behind.
        return re.compile(rb"[^A-Za-z0-9](?=(" + trie(self._by_start) + rb"))")

    def find(self, data: bytes, position: int, stop: int) -> list[tuple[int, int, str]]:
        """Return the secrets that begin in [position, stop), as (start, end, kind).

        A letter or digit before `position` is not looked at.
        """
        secrets: list[tuple[int, int, str]] = []
        match = self._starts.match(data, position, stop)
        if match is not None:
            position = self._add(data, position, match[0], secrets)
        while match := self._inner_starts.search(data, position, stop):
            position = self._add(data, match.end(), match[1], secrets)
        return secrets

    def may_begin(self, word: bytes) -> bool:
        """Return whether a word begins as a secret does, however short it is."""
        return self._starts.match(word) is not None

    def _add(
        self, data: bytes, start: int, start_text: bytes, secrets: list[tuple[int, int, str]]
    ) -> int:
        """Add the longest secret that begins at `start`; return the position to search on from."""
        longest = None
        kind = ""
        for other_kind, pattern in self._patterns.get(start_text) or self._compile(start_text):
            match = pattern.match(data, start)
            if (
                match is not None
                and (longest is None or match.end() > longest.end())
                # "ghp_xxxxxxxxxxxxxxxxxxxxxxxx" stands for a secret.
                and len({*match[0][-_FEW_BYTES:]}) > 2
            ):
                longest = match
                kind = other_kind
        if longest is None:
            return start
        group = "secret" if "secret" in longest.re.groupindex else 0
        secrets.append((*longest.span(group), kind))
        return longest.end()

    def _compile(self, shortest: bytes) -> list[tuple[str, re.Pattern[bytes]]]:
        """Return the patterns of all starts that begin with the shortest one."""
        # The search ends at the shortest start that fits: "sk-" also begins "sk-ant-".
        patterns = [
            (kind, re.compile(re.escape(start) + b"(?:" + rest.encode() + b")"))
            for start, rules in self._by_start.items()
            if start.startswith(shortest)
            for kind, rest in rules
        ]
        self._patterns[shortest] = patterns
        return patterns


def trie(texts: Iterable[bytes]) -> bytes:
    """Return a regular expression for any of some texts.

    Common first characters are shared: Python's `re` tries the branches of an alternation one by
    one, so 200 flat ones are slow.
    """
    by_first: dict[bytes, list[bytes]] = {}
    for text in texts:
        if not text:
            return b""
        by_first.setdefault(text[:1], []).append(text[1:])
    return b"|".join(
        re.escape(first) + (b"(?:" + trie(rests) + b")" if len(rests) > 1 else re.escape(rests[0]))
        for first, rests in sorted(by_first.items())
    )
