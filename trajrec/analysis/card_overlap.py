"""The section of the card on what splits share, on repeated actions, and on goals that are alike."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trajrec.analysis.card_markdown import bullets, code, table
from trajrec.analysis.near_duplicates import (
    LEAST_SIMILARITY,
    N_WORDS,
    Goal,
    NearDuplicates,
    NearPair,
)
from trajrec.analysis.overlap import read_overlap
from trajrec.analysis.source import Source

MOST_ROWS = 20

MOST_PAIRS = 1_000
"""Pairs of goals in card.json; the rest is counted."""

_TEXT = 300


def overlap_of(source: Source, held_out: Sequence[str]) -> dict[str, Any]:
    """Return the overlap of a corpus as plain data, which JSON can hold.

    Raises:
        ValueError: The declared lineage has a cycle.
    """
    found = read_overlap(source, held_out=held_out)
    overlap: dict[str, Any] = json.loads(
        json.dumps(
            {
                "shared": [dataclasses.asdict(item) for item in found.shared],
                "repeated_paths": len(found.paths),
                "episodes_in_repeated_paths": sum(path.n for path in found.paths),
                "leaks": [dataclasses.asdict(leak) for leak in found.leaks],
                "episodes_without_split": found.n_without_split,
                "derivations": found.n_edges,
                "near_duplicates": _near(found.near, held_out),
            },
            default=str,
        )
    )
    return overlap


def _near(near: NearDuplicates, held_out: Sequence[str]) -> dict[str, Any]:
    held = near.held_out(held_out)
    # By identity: to compare the texts of all pairs with each other takes minutes.
    own = set(map(id, held))
    first = [*held, *(pair for pair in near.pairs if id(pair) not in own)]
    return {
        "rule": f"Jaccard similarity of {N_WORDS}-word sequences of goals >= {LEAST_SIMILARITY}",
        "goals": near.n_goals,
        "goals_resembling": near.n_resembling,
        "goals_not_compared": near.n_left,
        "comparisons_left_out": near.n_skipped,
        "episodes_without_goal": near.n_without_goal,
        "pairs": len(near.pairs),
        "pairs_across_splits": sum(pair.is_across for pair in near.pairs),
        "pairs_held_out": len(held),
        "listed": [_pair(pair) for pair in first[:MOST_PAIRS]],
    }


def _pair(pair: NearPair) -> dict[str, Any]:
    return {"similarity": round(pair.similarity, 4), "a": _goal(pair.a), "b": _goal(pair.b)}


def _goal(goal: Goal) -> dict[str, Any]:
    return {**dataclasses.asdict(goal), "text": goal.text[:_TEXT]}


def overlap_text(card: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parts of the section."""
    overlap = card["overlap"]
    shared = [
        f"{item['by']} {item['value']} is in the splits {', '.join(item['splits'])}"
        for item in overlap["shared"]
    ]
    leaks = [
        f"episode {leak['episode_id']} descends from a held-out one: {' -> '.join(leak['path'])}"
        for leak in overlap["leaks"]
    ]
    facts = [
        f"{overlap['episodes_in_repeated_paths']} episodes share their actions with another one",
        f"{overlap['derivations']} declared derivations",
        *_near_facts(overlap["near_duplicates"]),
    ]
    yield bullets([*shared[:MOST_ROWS], *leaks[:MOST_ROWS], *facts])
    listed = overlap["near_duplicates"]["listed"]
    if listed:
        yield (
            f"Two goals resemble each other if at least half of their {N_WORDS}-word sequences "
            "are in both. Tasks of one template do so too: these are candidates to look at, and no "
            "proof. The search misses one of 10,000 such pairs at most, and each paraphrase."
        )
        yield table(("similarity", "one goal", "tasks", "splits", "the other", "tasks", "splits"),
            [_row(pair) for pair in listed[:MOST_ROWS]])  # fmt: skip
    if len(listed) > MOST_ROWS:
        yield f"card.json has {len(listed)} of the {overlap['near_duplicates']['pairs']} pairs."


def _near_facts(near: Mapping[str, Any]) -> list[str]:
    facts = [f"{near['goals_resembling']} of {_goals(near['goals'])} another one"]
    if near["pairs"]:
        held = near["pairs_held_out"]
        facts.append(
            f"of {_pairs(near['pairs'])}, {near['pairs_across_splits']} across splits: "
            f"{_pairs(held)} {'is' if held == 1 else 'are'} held out and not"
        )
    if near["goals_not_compared"]:
        facts.append(f"{near['goals_not_compared']} goals were not compared: there are too many")
    if near["comparisons_left_out"]:
        facts.append(
            f"{near['comparisons_left_out']} comparisons were left out, because many goals have "
            "the same words: more of these goals may resemble each other"
        )
    if n := near["episodes_without_goal"]:
        words = "1 episode has" if n == 1 else f"{n} episodes have"
        facts.append(f"{words} no recorded goal to compare")
    return facts


def _goals(n: int) -> str:
    return "1 goal resembles" if n == 1 else f"{n} goals resemble"


def _pairs(n: int) -> str:
    return "1 pair" if n == 1 else f"{n} pairs"


def _row(pair: Mapping[str, Any]) -> tuple[str, ...]:
    cells = [f"**{pair['similarity']:.2f}**"]
    for goal in (pair["a"], pair["b"]):
        cells += [
            code(goal["text"]),
            ", ".join(map(code, goal["tasks"][:5])) + (" ..." if len(goal["tasks"]) > 5 else ""),
            ", ".join(map(code, goal["splits"])) or "**unknown**",
        ]
    return tuple(cells)
