"""Cards in notebooks: harmless, of bounded size, and never in the way of the object."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest

import trajrec
from trajrec.analysis.arms import Arm, TaskDifference
from trajrec.analysis.comparison import Comparison
from trajrec.analysis.estimate import Estimate as Difference
from trajrec.replay.credit.results.estimates import Estimate
from trajrec.replay.credit.results.table import CreditTable
from trajrec.replay.execute.report import Divergence, ReplayReport
from trajrec.values.html_cards import MAX_CARD, card, card_method, interval_picture, table

HOSTILE = "<script>alert(1)</script>\"' onload='x()' \x1b[31m\x00\u202e\ud800 {{ 7*7 }}<!--"
HUGE = HOSTILE + "<b>" * 1_000_000
TAGS = {"div", "span", "table", "thead", "tbody", "tr", "th", "td", "svg", "rect", "path", "circle",
    "text"}  # fmt: skip


class Elements(HTMLParser):
    """Asserts that a card has elements and attributes of its own alone."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        for name, value in attrs:
            assert name not in ("id", "class", "href", "src"), name
            assert not name.startswith("on"), name
            assert name != "style" or "url" not in (value or "")


def assert_harmless(text: str) -> None:
    Elements().feed(text)
    assert len(text) <= MAX_CARD
    assert "No card" not in text
    for hidden in ("\x1b", "\x00", "\u202e", "\ud800"):
        assert hidden not in text


def shown(item: Any) -> str:
    """Return the card as a notebook gets it."""
    text = item._repr_html_()
    assert isinstance(text, str)
    return text


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trajrec.Corpus]:
    """One episode with 30 failures of a hostile tool, the first of which is overcome."""
    folder = tmp_path_factory.mktemp("cards") / "a<b>"
    calls = iter(range(100))

    def fail(**_: Any) -> int:
        if (number := next(calls)) == 1:
            return number
        raise ValueError(HUGE[:5_000])

    with trajrec.episode(folder, task=HOSTILE, watch={}) as ep:
        ep.tool(fail, name="fail" + HOSTILE[:30], access="read")
        for _ in range(31):
            with ep.step():
                ep.model(lambda **_: "on", messages=[])
                try:
                    ep.call("fail" + HOSTILE[:30], order="O1")
                except ValueError:
                    continue
        ep.check(trajrec.verifier(id="v", version="1")(lambda _: False))
    trajrec.close_logs()
    with trajrec.open(folder) as opened:
        yield opened


def test_the_card_of_a_corpus_has_its_counts(corpus: trajrec.Corpus) -> None:
    text = shown(corpus)
    assert_harmless(text)
    assert 'aria-label="0 succeeded, 1 failed, 0 without a verdict"' in text
    assert text.count("ValueError") == 5
    assert "&lt;script&gt;" in text


def test_the_card_of_an_episode_has_its_failures(corpus: trajrec.Corpus) -> None:
    (episode,) = corpus.episodes()
    text = shown(episode)
    assert_harmless(text)
    assert 'aria-label="31 steps, of which 30 had failures"' in text
    assert "overcome at 1" in text
    assert "and 25 more" in text
    assert len(re.findall("ValueError", text)) == 5


def test_the_card_of_a_replay_has_both_values() -> None:
    at = Divergence(
        step=6, field="observation", expected=HOSTILE, actual=1.5, cause=HUGE, path=("observation",)
    )
    report = ReplayReport(
        episode_id="ab", grade="diverged", n_steps=7, divergence=at, notes=(HUGE,) * 300
    )
    text = shown(report)
    assert_harmless(text)
    assert "step 6, observation" in text
    assert "&lt;script&gt;" in text
    assert "1.5" in text
    exact = shown(ReplayReport(episode_id="ab", grade="exact", n_steps=7))
    assert "Replay of ab: exact" in exact
    assert "first difference" not in exact


def credit(*numbers: tuple[float, float, float]) -> CreditTable:
    estimates = [
        Estimate(
            step=step,
            value=value,
            ci_low=low,
            ci_high=high,
            ci_method="t",
            n=9,
            n_discordant=1,
            estimator="advantage",
            estimand=HOSTILE,
            action=HUGE,
        )
        for step, (value, low, high) in enumerate(numbers)
    ]
    return CreditTable(
        run_id="cd", episode_id="ef", policy_id=HOSTILE, estimates=estimates, notes=(HUGE,)
    )


def test_a_credit_that_is_not_known_is_never_zero() -> None:
    text = shown(credit((0.1, -0.2, 0.4), (math.nan, -math.inf, math.inf), (-0.5, -0.6, -0.4)))
    assert_harmless(text)
    assert text.index("-0.500") < text.index("+0.100") < text.index("unknown")
    assert ">?</text>" in text
    # The interval that holds 0 has a hollow point, the other one a full one.
    assert re.findall(r'r="3.5" fill="(\w+)"', text) == ["currentColor", "none"]
    assert_harmless(shown(credit(*[(0.1, 0.0, 0.2)] * 5_000)))


def comparison(n_tasks: int) -> Comparison:
    arm = Arm(
        where=HUGE,
        interface_ids=(None,),
        n_episodes=4,
        n_tasks=n_tasks,
        n_graded=4,
        n_truncated=0,
        excluded={},
        first=None,
        last=None,
        rate=None,
    )
    tasks = [
        TaskDifference(
            task=f"{number} {HOSTILE}",
            n_a=2,
            n_b=2,
            rate_a=0.0,
            rate_b=0.5,
            difference=Difference(value=number / n_tasks, ci_low=-math.inf, ci_high=math.inf),
        )
        for number in range(n_tasks)
    ]
    return Comparison(
        check="solved@1",
        a=arm,
        b=arm,
        difference=Difference(value=0.5, ci_low=0.25, ci_high=0.75),
        method="t",
        over="population",
        unit="task",
        n_units=n_tasks,
        claim="unlicensed",
        reasons=("nobody knows " + HUGE,),
        problems=(),
        notes=(),
        factors={},
        bounds=None,
        smallest_visible=None,
        dropped=(),
        tasks=tuple(tasks),
    )


def test_the_card_of_a_comparison_says_its_reasons() -> None:
    text = shown(comparison(1_000))
    assert_harmless(text)
    assert "Comparison of solved@1: unlicensed" in text
    assert "nobody knows" in text
    assert "+0.500 [+0.250, +0.750]" in text
    assert "[unknown]" in text
    assert "and 989 more" in text


def test_a_card_that_fails_shows_the_object_and_why() -> None:
    class Broken:
        def __repr__(self) -> str:
            return f"<Broken {HOSTILE}>"

        @card_method
        def _repr_html_(self) -> str:
            raise KeyError(HOSTILE)

    class Large(Broken):
        @card_method
        def _repr_html_(self) -> str:
            return "x" * (MAX_CARD + 1)

    for item, reason in ((Broken(), "KeyError"), (Large(), "larger than 60000 characters")):
        text = shown(item)
        assert "&lt;Broken &lt;script&gt;" in text
        assert reason in text
        assert "<script" not in text
        assert "\x1b" not in text


def test_the_largest_table_is_within_the_limit() -> None:
    text = card(HUGE, [], table(["\u202e" * 500] * 6, [["\u202e" * 500] * 6] * 50))
    assert len(text) <= MAX_CARD


def test_an_interval_without_ends_has_arrows_and_no_infinity() -> None:
    for low, high in ((-math.inf, math.inf), (-math.inf, 0.2), (-5.0, 5.0)):
        picture = interval_picture(0.1, low, high, limit=1.0)
        shapes = re.sub('aria-label="[^"]*"', "", picture)
        assert "inf" not in shapes
        assert shapes.count("<path") == 2 + (low < -1) + (high > 1)
