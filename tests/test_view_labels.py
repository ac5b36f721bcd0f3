"""The page of an episode shows the labels that people, models and programs gave it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_view import HOSTILE, ROOT, assert_harmless, signed_in

import trajrec
from trajrec.view.report import make_report

EPISODE = "7cc54b3937388b82"


@pytest.fixture
def corpus(tmp_path: Path) -> Iterator[trajrec.Corpus]:
    shutil.copy(ROOT / "sample_trajectories" / "won-shop.trj", tmp_path)
    with trajrec.open(tmp_path) as corpus:
        yield corpus


def test_labels_stand_at_the_episode_and_its_steps(corpus: trajrec.Corpus) -> None:
    corpus.tag(EPISODE, split="train", reviewed=True)
    corpus.label(EPISODE, "process", 1, step=3, by="judge", author="gpt-5")
    corpus.label(EPISODE, "process", -1, step=3, by="judge", author="gpt-5", rationale="too far")
    client = signed_in(corpus)
    page = client.get(f"/e/{EPISODE}/3").text
    other = client.get(f"/e/{EPISODE}/4").text
    for text in (page, other, make_report(corpus, EPISODE)):
        assert "<dt>split</dt><dd>" in text
        assert "by person" in text
    assert "-1" in page
    assert "by gpt-5 (judge): too far" in page
    # Every step names the one that has a label, whose text stands there alone.
    assert "too far" not in other
    assert f'href="/e/{EPISODE}/3">step 3</a>' in other


def test_an_episode_without_labels_says_nothing_of_them(corpus: trajrec.Corpus) -> None:
    client = signed_in(corpus)
    page = client.get(f"/e/{EPISODE}").text
    assert "<h3>labels</h3>" not in page
    assert "labelled:" not in page


def test_a_new_label_is_on_the_page_at_once(corpus: trajrec.Corpus) -> None:
    client = signed_in(corpus)
    assert "a bad turn" not in client.get(f"/e/{EPISODE}/3").text
    corpus.note(EPISODE, "a bad turn", step=3, author="Ada")
    page = client.get(f"/e/{EPISODE}/3").text
    assert "a bad turn" in page
    assert "by Ada (person)" in page


def test_labels_steer_no_browser(corpus: trajrec.Corpus) -> None:
    corpus.label(EPISODE, HOSTILE, HOSTILE, step=3, author=HOSTILE, rationale=HOSTILE)
    corpus.label(EPISODE, HOSTILE, [HOSTILE, {HOSTILE: 1}], author=HOSTILE)
    client = signed_in(corpus)
    page = client.get(f"/e/{EPISODE}/3").text
    assert_harmless(page)
    assert page.count("<h3>labels</h3>") == 2
