"""Goals that resemble each other: candidates for one task under two names, or in two splits.

The rule: the words of a goal are its runs of letters and digits in lower case. Two goals resemble
each other if of all sequences of five words that one of them has, at least half are in both
(Jaccard similarity 0.5 of 5-word shingles). A goal of fewer words is one sequence, so it resembles
only a goal of the same words.

The search is MinHash with 64 permutations in 32 bands of 2. It finds a pair of similarity s with
probability 1 - (1 - s^2)^32: at 0.5 it misses one of 10,000 pairs, at 0.7 one of 2e9. Each pair that
it finds is compared exactly, so that no pair below 0.5 is reported. Resemblance is no proof: tasks
made from one template resemble each other, and a translation or a paraphrase does not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trajrec.types import Array

N_WORDS = 5
"""Words of a shingle."""

LEAST_SIMILARITY = 0.5
"""Least Jaccard similarity of goals that resemble each other."""

N_BANDS = 32
N_ROWS = 2
"""Bands of the signature, and permutations in each."""

MAX_GOALS = 5_000
"""Goals that are compared; the rest is counted."""

MAX_IN_BAND = 64
"""Goals with the same band that each goal is compared with; the rest is counted."""

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A goal of one or more episodes.

    Attributes:
        digest: Its digest.
        tasks: The tasks that have it.
        splits: The splits that have it; none if its episodes name none.
        n: Episodes.
        text: Its text.
    """

    digest: str
    tasks: tuple[str, ...]
    splits: tuple[str, ...]
    n: int
    text: str


@dataclass(frozen=True, kw_only=True)
class NearPair:
    """Two goals that resemble each other.

    Attributes:
        similarity: The share of their 5-word sequences that both have, of all that one has.
        a: One goal.
        b: The other.
    """

    similarity: float
    a: Goal
    b: Goal

    @property
    def is_across(self) -> bool:
        """Whether one of them is in another split than the other."""
        return any(one != other for one in self.a.splits for other in self.b.splits)


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """Goals that resemble each other.

    Attributes:
        pairs: The pairs: those across splits first, then by similarity.
        n_goals: Different goals that were compared.
        n_left: Different goals that were not: there are too many.
        n_without_goal: Episodes without a recorded goal; those of environments have none.
        n_skipped: Comparisons that were left out, because very many goals have the same words.
    """

    pairs: tuple[NearPair, ...]
    n_goals: int
    n_left: int
    n_without_goal: int
    n_skipped: int

    @property
    def n_resembling(self) -> int:
        """The number of goals that resemble another one."""
        return len({goal.digest for pair in self.pairs for goal in (pair.a, pair.b)})

    def held_out(self, splits: Iterable[str]) -> list[NearPair]:
        """Return the pairs of which one goal is in one of some splits, and the other elsewhere."""
        held = set(splits)
        return [
            pair
            for pair in self.pairs
            if any(
                held & set(one.splits) and set(other.splits) - held
                for one, other in ((pair.a, pair.b), (pair.b, pair.a))
            )
        ]


def near_duplicates(goals: Sequence[Goal], *, n_without_goal: int = 0) -> NearDuplicates:
    """Return the goals that resemble each other, by the rule of this module.

    Args:
        goals: Different goals.
        n_without_goal: Episodes without a recorded goal.
    """
    compared = goals[:MAX_GOALS]
    sets = [shingles(goal.text) for goal in compared]
    candidates, n_skipped = _candidates([_signature(found) for found in sets])
    pairs = []
    for a, b in candidates:
        similarity = jaccard(sets[a], sets[b])
        if similarity >= LEAST_SIMILARITY:
            pairs.append(NearPair(similarity=similarity, a=compared[a], b=compared[b]))
    pairs.sort(
        key=lambda pair: (not pair.is_across, -pair.similarity, pair.a.digest, pair.b.digest)
    )
    return NearDuplicates(
        pairs=tuple(pairs),
        n_goals=len(compared),
        n_left=len(goals) - len(compared),
        n_without_goal=n_without_goal,
        n_skipped=n_skipped,
    )


def shingles(text: str) -> Array:
    """Return the 5-word sequences of a text as sorted numbers, uint64; none without a word.

    >>> len(shingles("Refund order O1005 in full, please.")), len(shingles("...")), len(shingles("a"))
    (2, 0, 1)
    """
    words = _WORD.findall(text.casefold())
    if not words:
        return np.empty(0, np.uint64)
    n = max(1, len(words) - N_WORDS + 1)
    texts = {" ".join(words[start : start + N_WORDS]) for start in range(n)}
    digests = [
        hashlib.blake2b(piece.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for piece in texts
    ]
    return np.sort(np.frombuffer(b"".join(digests), np.uint64))


def jaccard(a: Array, b: Array) -> float:
    """Return the share of the members of two sets that both have; 0 if both are empty."""
    n_both = len(np.intersect1d(a, b, assume_unique=True))
    n_all = len(a) + len(b) - n_both
    return n_both / n_all if n_all else 0.0


def _signature(members: Array) -> Array | None:
    """Return the least number of a set under each permutation, (64,) uint64; None if it is empty."""
    if not len(members):
        return None
    least: Array = _mixed(members[None, :] ^ _SEEDS[:, None]).min(axis=1)
    return least


def _mixed(numbers: Array) -> Array:
    """Return a permutation of 64-bit numbers: the finalizer of SplitMix64 (Steele et al., 2014)."""
    z: Array = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


_SEEDS = _mixed(np.arange(1, N_BANDS * N_ROWS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _candidates(signatures: Sequence[Array | None]) -> tuple[Iterable[tuple[int, int]], int]:
    """Return the pairs that share a band, and how many pairs of one band were left out."""
    found: dict[tuple[int, int], None] = {}
    n_skipped = 0
    for band in range(N_BANDS):
        for members in _buckets(signatures, band).values():
            for place, one in enumerate(members):
                others = members[place + 1 : place + 1 + MAX_IN_BAND]
                n_skipped += len(members) - place - 1 - len(others)
                found.update(dict.fromkeys((one, other) for other in others))
    return found, n_skipped


def _buckets(signatures: Sequence[Array | None], band: int) -> Mapping[bytes, list[int]]:
    buckets: dict[bytes, list[int]] = {}
    for number, signature in _known(signatures):
        key = signature[band * N_ROWS : (band + 1) * N_ROWS].tobytes()
        buckets.setdefault(key, []).append(number)
    return buckets


def _known(signatures: Sequence[Array | None]) -> Iterator[tuple[int, Array]]:
    for number, signature in enumerate(signatures):
        if signature is not None:
            yield number, signature
