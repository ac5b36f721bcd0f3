"""Forks, replays and later checks change no number that is not about them."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import gymnasium as gym
from counter_runs import interface, of_run
from tiers import Share, suite

import trajrec
from trajrec.analysis.card import About, make_card
from trajrec.cli.main import main
from trajrec.corpus.recheck import recheck
from trajrec.envs.keydoor import LEFT, OPEN, PICK_UP, RIGHT
from trajrec.replay import fork_many

# From the middle of eight cells: to the key, and back to the door.
WITH_KEY = [*[LEFT] * 4, PICK_UP, *[RIGHT] * 7, OPEN]
WITHOUT_KEY = [*[RIGHT] * 3, OPEN]


@trajrec.verifier(id="solved", version="1")
def solved(env: Any) -> bool:
    return bool(env.unwrapped.get_state()["has_key"])


@trajrec.verifier(id="nothing", version="1")
def nothing(state: Any) -> bool:
    return False


def record(folder: Path) -> None:
    """Record two runs of three tasks, with four rollouts each."""
    for run, n_won in (("a", 1), ("b", 3)):
        env = trajrec.record(
            gym.make("trajrec/KeyDoor-v0"),
            folder,
            task=lambda seed, options: f"door {seed}",
            metadata={"run": run},
            interface=interface(scaffold={"prompt": run}),
            checks=[solved],
        )
        for seed in range(3):
            for trial in range(4):
                env.reset(seed=seed)
                for action in WITH_KEY if trial < n_won else WITHOUT_KEY:
                    env.step(action)
        env.close()


def numbers(corpus: trajrec.Corpus) -> dict[str, Any]:
    """Return the numbers of all analyses but those of replays and of checks."""
    comparison = corpus.compare(a=of_run("a"), b=of_run("b"))
    support = corpus.support().as_dict()
    card = make_card(corpus, About(name="doors", published=datetime.date(2026, 1, 1)))
    of_rollouts = ("interfaces", "tasks", "success", "bands", "overlap")
    return {
        "compare": comparison.as_dict(),
        "bands": [band.as_dict() for band in corpus.bands(min_n=4)],
        "view": corpus.sql("SELECT * FROM bands ORDER BY ALL").fetchall(),
        "pass_k": [corpus.pass_k(k, of_run("b")) for k in (1, 2, 4)],
        "plan": corpus.plan(0.1, of_run("a")),
        "factors": corpus.factors([of_run("a"), of_run("b")]),
        "recovery": corpus.recovery(),
        "overlap": corpus.overlap(),
        "support": {name: claim for name, claim in support.items() if name != "trace"},
        "health": [item for item in corpus.verifier_health() if item.check_id == "solved"],
        "lineage": corpus.sql("SELECT * FROM lineage_edges ORDER BY ALL").fetchall(),
        "card": {name: card[name] for name in of_rollouts},
    }


@suite("attribution", fixed=0, drawn=12, whole=1000)
def test_forks_replays_and_later_checks_change_no_other_number(
    share: Share, tmp_path: Path
) -> None:
    record(tmp_path)
    n = share.size or 1000
    with trajrec.open(tmp_path) as corpus:
        before = numbers(corpus)
        parents = list(corpus.episodes())
        assert len(parents) == 24
        for parent in parents:
            fork_many(
                parent,
                at=2,
                policy="random",
                n_branches=-(-n // len(parents)),
                max_steps=4,
                folder=tmp_path,
            )
        checked = 0
        while checked < n:
            checked += len(list(recheck(corpus, nothing)))
        rounds = -(-n // len(parents))
        for _ in range(min(rounds, 4)):
            assert main(["replay", str(tmp_path)]) == 0
        assert corpus.sql("SELECT count(*) >= ? FROM forks", params=[n]).fetchall() == [(True,)]
        assert corpus.sql("SELECT count(*) > 0 FROM replays").fetchall() == [(True,)]
        after = numbers(corpus)
    assert before["compare"]["claim"] == "attributable"
    assert before["compare"]["difference"]["value"] == 0.5
    for name, value in before.items():
        assert after[name] == value, name
