"""What-if experiments of an agent whose chances are known: intervals cover, and controls catch."""

from __future__ import annotations

import itertools
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiers import Share, suite

import trajrec
from trajrec.replay import what_if
from trajrec.replay.whatif.changes import Arguments

BEFORE = 0.15


class Gambler:
    """Makes one bid, which says its chance, and then asks a model that wins with that chance."""

    def __init__(self, seed: int, effect: Callable[[], Any] = lambda: None) -> None:
        self.rng = random.Random(seed)
        self.state: dict[str, Any] = {"chance": None, "won": None}
        self.effect = effect
        self.n_runs_of_mail = 0

    def __call__(self, ep: Any) -> None:
        bid = ep.tool(self.bid, access="write")
        mail = ep.tool(self.mail, access="external")
        ep.model(lambda messages: "begin", messages=["begin"])
        mail(to="a")
        ep.model(lambda messages: "bid", messages=["bid"])
        bid(chance=BEFORE)
        said = ep.model(self.answer, messages=["did I win?"])
        ep.tool(self.note, access="write")(said=said)

    def bid(self, chance: float) -> Any:
        self.state["chance"] = chance
        return self.effect()

    def mail(self, to: str) -> str:
        self.n_runs_of_mail += 1
        return "sent"

    def answer(self, messages: list[str]) -> str:
        return "yes" if self.rng.random() < self.state["chance"] else "no"

    def note(self, said: str) -> None:
        self.state["won"] = said == "yes"

    def record(self, folder: Path) -> Any:
        """Record an episode that lost."""
        while True:
            with trajrec.episode(folder, task="bid", watch=self.state) as ep:
                self(ep)
                lost = not won(self.state)
                ep.check(won)
            if lost:
                break
        trajrec.close_logs()
        self.n_runs_of_mail = 0
        with trajrec.open(folder) as corpus:
            return corpus.episode(next(iter(corpus.episodes("outcome = 'failure'"))).id)


def won(state: dict[str, Any]) -> bool:
    return bool(state["won"])


@pytest.mark.parametrize("effect", [0.0, 0.2, 0.7])
@pytest.mark.parametrize("n", [8, 16])
@suite("whatif", fixed=0, drawn=8, whole=1000)
def test_interval_covers_the_known_effect(
    share: Share, n: int, effect: float, tmp_path: Path
) -> None:
    gambler = Gambler(share.seed % 2**32)
    episode = gambler.record(tmp_path / "recorded")
    # Arguments that the call had already are refused: no change has no effect.
    change = Arguments({"chance": BEFORE + effect}) if effect else None
    n_covered = 0
    assert share.size
    for number in range(share.size):
        folder = tmp_path / str(number)
        result = what_if(
            episode,
            at=1,
            change=change,
            agent=gambler,
            watch=gambler.state,
            success=won,
            n=n,
            folder=folder,
            accept=True,
        )
        trajrec.close_logs()
        shutil.rmtree(folder)
        assert not result.refused
        assert result.changed.n_unknown == result.unchanged.n_unknown == 0
        gain = result.difference
        n_covered += gain.ci_low <= effect <= gain.ci_high
    # The external tool lies before the step: no run has sent a mail.
    assert gambler.n_runs_of_mail == 0
    print(f"covered {n_covered} of {share.size}")
    assert n_covered >= (0.935 if share.is_whole else 0.6) * share.size


def hidden_effects(folder: Path) -> list[Callable[[], Any]]:
    numbers = itertools.count()
    path = folder / "outside.txt"

    def file() -> int:
        with path.open("a") as opened:
            opened.write("x")
        return path.stat().st_size

    def child() -> str:
        code = f"p = open({str(path)!r}, 'a'); p.write('x'); print(p.tell())"
        return subprocess.run([sys.executable, "-Ic", code], capture_output=True, text=True).stdout

    return [lambda: next(numbers), time.time_ns, file, child]


@suite("whatif", fixed=0, drawn=4, whole=100)
def test_controls_catch_every_state_that_is_not_put_back(share: Share, tmp_path: Path) -> None:
    assert share.size
    for number in range(share.size):
        folder = tmp_path / str(number)
        folder.mkdir()
        effects = hidden_effects(folder)
        gambler = Gambler(number, effects[number % len(effects)])
        episode = gambler.record(folder / "runs")
        result = what_if(
            episode,
            at=1,
            change=Arguments({"chance": 0.9}),
            agent=gambler,
            watch=gambler.state,
            success=won,
            n=1,
            accept=True,
        )
        assert "a control differs from the recording" in result.refused
        trajrec.close_logs()
        shutil.rmtree(folder)
