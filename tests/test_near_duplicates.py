"""Goals that resemble each other: the rule, and how often the search finds what it should."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counter_runs import record_one
from tiers import third_slow

import trajrec
from trajrec.analysis import near_duplicates as near
from trajrec.analysis.near_duplicates import Goal, jaccard, near_duplicates, shingles
from trajrec.recording.event_log import close_logs

REFUND = (
    "Refund order O1005 in full and tell the customer. The payment provider may not answer at once."
)


def goal(number: int, text: str, *splits: str) -> Goal:
    return Goal(digest=f"g{number:06}", tasks=(f"t{number}",), splits=splits, n=1, text=text)


def test_a_word_that_differs_leaves_goals_alike() -> None:
    a, b = shingles(REFUND), shingles(REFUND.replace("O1005", "O1006"))
    # 17 words make 13 sequences, of which 3 have the order.
    assert (len(a), len(b)) == (13, 13)
    assert jaccard(a, b) == pytest.approx(10 / 16)


def test_case_marks_and_spaces_do_not_count() -> None:
    assert jaccard(shingles(REFUND), shingles(f"  {REFUND.upper()}!\n".replace(" ", "\t"))) == 1.0


def test_short_goals_resemble_only_the_same_words() -> None:
    found = near_duplicates([goal(0, "Let rooms."), goal(1, "let ROOMS"), goal(2, "Let a room.")])
    assert [(pair.a.digest, pair.b.digest) for pair in found.pairs] == [("g000000", "g000001")]


def test_goals_without_words_resemble_nothing() -> None:
    assert near_duplicates([goal(0, ""), goal(1, "..."), goal(2, "?!")]).pairs == ()


def test_lone_surrogates_and_long_goals_are_compared() -> None:
    text = "\ud800 " + "word " * 10_000
    assert len(near_duplicates([goal(0, text), goal(1, text + "more")]).pairs) == 1


def drawn(luck: random.Random, n: int) -> list[str]:
    """Return goals, some of them others with a few words changed."""
    words = [f"w{number}" for number in range(200)]
    texts: list[str] = []
    for _ in range(n):
        text = luck.choices(words, k=luck.randrange(3, 40))
        if texts and luck.random() < 0.5:
            text = luck.choice(texts).split()
            for _ in range(luck.randrange(4)):
                text[luck.randrange(len(text))] = luck.choice(words)
        texts.append(" ".join(text))
    return list(dict.fromkeys(texts))


def plain_similarity(a: str, b: str) -> float:
    def pieces(text: str) -> set[tuple[str, ...]]:
        words = text.split()
        return {tuple(words[k : k + 5]) for k in range(max(1, len(words) - 4))}

    return len(pieces(a) & pieces(b)) / len(pieces(a) | pieces(b))


@pytest.mark.slow
@third_slow("index")
@pytest.mark.parametrize("seed", range(5))
def test_the_search_finds_what_comparing_all_pairs_finds(seed: int) -> None:
    texts = drawn(random.Random(seed), 300)
    goals = [goal(number, text) for number, text in enumerate(texts)]
    found = {(pair.a.text, pair.b.text): pair.similarity for pair in near_duplicates(goals).pairs}
    expected = {
        (a, b): plain_similarity(a, b)
        for a, b in itertools.combinations(texts, 2)
        if plain_similarity(a, b) >= near.LEAST_SIMILARITY
    }
    assert len(expected) > 20
    assert found == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_the_search_misses_as_rarely_as_it_says(share: float) -> None:
    """Sets of which two have a known similarity; the search may miss a known part of them."""
    luck = np.random.default_rng(7)
    n_sets, size = 400, 60
    n_both = round(2 * size * share / (1 + share))
    truth = n_both / (2 * size - n_both)
    n_found = 0
    for _ in range(n_sets):
        numbers = luck.integers(0, 2**63, 2 * size - n_both, dtype=np.uint64)
        a, b = numbers[:size], numbers[size - n_both :]
        candidates, _ = near._candidates([near._signature(a), near._signature(b)])
        n_found += bool(dict.fromkeys(candidates))
    stated = 1 - (1 - truth**near.N_ROWS) ** near.N_BANDS
    assert n_found / n_sets == pytest.approx(stated, abs=4 * (0.25 / n_sets) ** 0.5 + 0.001)


def test_what_is_not_compared_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    goals = [goal(number, f"{REFUND} {number}") for number in range(100)]
    assert near_duplicates(goals).n_skipped > 0
    monkeypatch.setattr(near, "MAX_GOALS", 10)
    found = near_duplicates(goals, n_without_goal=3)
    assert (found.n_goals, found.n_left, found.n_without_goal, found.n_skipped) == (10, 90, 3, 0)
    assert len(found.pairs) == 45


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("near")
    other = REFUND.replace("O1005", "O1006")
    goals: list[tuple[Any, str | None, str]] = [
        (REFUND, "train", "a"),
        (REFUND, "train", "b"),
        (other, "test", "c"),
        ("Let all rooms of the house before noon, and say to whom.", "test", "d"),
        ({"say": other}, None, "e"),
        (None, "train", "f"),
    ]
    for text, split, task in goals:
        metadata = {} if split is None else {"split": split}
        record_one(folder, True, task=task, goal=text, metadata=metadata)
    close_logs()
    return folder


def test_goals_of_a_corpus_are_compared_across_splits(folder: Path) -> None:
    with trajrec.open(folder) as corpus:
        found = corpus.overlap(held_out=("test",)).near
    assert (found.n_goals, found.n_without_goal) == (4, 1)
    first, *others = found.pairs
    assert first.is_across
    assert {first.a.tasks, first.b.tasks} == {("a", "b"), ("c",)}
    assert first.similarity == pytest.approx(10 / 16)
    assert found.held_out(["test"]) == [first]
    assert {pair.is_across for pair in others} == {False}
    assert found.n_resembling == 3


@pytest.mark.slow
def test_the_card_names_goals_that_resemble_each_other(folder: Path, tmp_path: Path) -> None:
    with trajrec.open(folder) as corpus:
        corpus.card(tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "near duplicates were not searched" not in text
    assert "3 of 4 goals resemble another one" in text
    assert "1 pair is held out and not" in text
    assert "**0.62**" in text
    assert "1 episode has no recorded goal" in text
