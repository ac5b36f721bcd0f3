"""Screenshots in values, messages and results: shown on pages, named on the terminal."""

from __future__ import annotations

import base64
import json
import random
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

import trajrec
from trajrec.cli.main import main
from trajrec.values.pictures import EncodedPicture, with_named_pictures
from trajrec.view.panes import Pane
from trajrec.view.text import shown

pytest.importorskip("jinja2", reason="pip install 'trajrec[view]'")

from trajrec.view.episode_view import EpisodeView
from trajrec.view.evidence import Evidence
from trajrec.view.report import make_report


def png(seed: int, side: int = 60) -> bytes:
    """Return a picture of noise, which packs badly, as screens of photos do."""
    rng = random.Random(seed)
    rows = b"".join(b"\0" + rng.randbytes(3 * side) for _ in range(side))
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def encoded(seed: int) -> str:
    return base64.b64encode(png(seed)).decode()


def record(folder: Path, n_steps: int = 4) -> str:
    """Record an agent that is shown each screenshot that its tool returns."""
    messages: list[Any] = [{"role": "user", "content": "Buy a lamp."}]

    def click(number: int) -> dict[str, str]:
        return {"type": "image", "data": encoded(number)}

    with trajrec.episode(folder) as ep:
        tool = ep.tool(click)
        for number in range(n_steps):
            use = {"type": "tool_use", "id": f"c{number}", "name": "click", "input": {}}
            answer = {"role": "assistant", "content": [use]}
            ep.model(lambda answer=answer, **_: answer, messages=messages)
            source = {"type": "base64", "media_type": "image/png", "data": tool(number)["data"]}
            result = {
                "type": "tool_result",
                "tool_use_id": f"c{number}",
                "content": [{"type": "image", "source": source}],
            }
            messages = [*messages, answer, {"role": "user", "content": [result]}]
    trajrec.close_logs()
    return ep.id


def pane_of(folder: Path, episode_id: str, step: int) -> Pane:
    with trajrec.open(folder) as corpus:
        return EpisodeView(corpus.episode(episode_id), Evidence()).pane(step)


@pytest.mark.parametrize(
    "value",
    [
        png(1),
        encoded(1),
        f"data:image/png;base64,{encoded(1)}",
        {"content": [{"image_url": {"url": f"data:image/png;base64,{encoded(1)}"}}]},
        '{"screenshot": "' + encoded(1) + '"}',
        encoded(1).replace("+", "-").replace("/", "_"),
    ],
    ids=["bytes", "bare", "address", "part", "inside of JSON", "alphabet of addresses"],
)
def test_a_picture_is_named_and_shown_whole(value: Any) -> None:
    view = shown(value)
    assert view.pictures == (EncodedPicture("image/png", encoded(1)),)
    assert f"image/png, 60 x 60, {len(png(1)) / 1000:.0f} kB" in view.text
    assert "iVBORw0KGgo" not in view.text
    assert base64.b64decode(view.pictures[0].data) == png(1)


@pytest.mark.parametrize(
    "value",
    [
        "iVBORw0KGgo is how a PNG begins",
        "UklGR" + "A" * 300,  # A sound begins so too.
        base64.b64encode(b"RIFF\0\0\0\0WAVE" + bytes(300)).decode(),
        b"RIFF\0\0\0\0WAVE",
        "data:text/html;base64,PHNjcmlwdD4=",
        "data:image/svg+xml;base64,PHN2Zz4=",
        "/9j/path",
        {"a": [1, 2.5, None, True]},
    ],
)
def test_other_values_are_no_pictures(value: Any) -> None:
    found: list[EncodedPicture] = []
    assert with_named_pictures(value, found) == value
    assert found == []


def test_a_step_shows_the_pictures_of_its_result_and_messages(tmp_path: Path) -> None:
    episode_id = record(tmp_path)
    pane = pane_of(tmp_path, episode_id, 1)
    (attempt,) = pane.attempts
    assert attempt.result is not None
    assert [picture.data for picture in attempt.result.pictures] == [encoded(1)]
    (turn,) = pane.turns
    assert [message.text.pictures[0].data for message in turn.messages] == [encoded(0)]
    with trajrec.open(tmp_path) as corpus:
        report = make_report(corpus, episode_id)
    # The step that the page opens at stands in it twice: once packed.
    assert report.count(f'<img class="shown" src="data:image/png;base64,{encoded(0)}"') == 1


def unpacked(report: str) -> dict[str, str]:
    """Return the panes that stand in a report, by their steps."""
    found = re.search(r'id="panes"[^>]*>([^<]+)<', report)
    assert found is not None
    panes: dict[str, str] = json.loads(zlib.decompress(base64.b64decode(found.group(1)), -15))
    return panes


def test_a_small_report_leaves_out_pictures_before_steps(tmp_path: Path) -> None:
    episode_id = record(tmp_path, n_steps=8)
    with trajrec.open(tmp_path) as corpus:
        whole = make_report(corpus, episode_id)
        small = make_report(corpus, episode_id, max_bytes=60_000)
    assert "are left out" not in whole
    limits = re.findall(r"(?:the pictures of )?\d+ steps are left out", small)
    assert limits == ["the pictures of 6 steps are left out"]
    packed = {len(text): unpacked(text) for text in (whole, small)}
    assert all(list(panes) == list(map(str, range(8))) for panes in packed.values())
    n_pictures = [sum("<img" in pane for pane in panes.values()) for panes in packed.values()]
    assert n_pictures == [8, 2]


def test_the_terminal_names_pictures_and_json_has_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    episode_id = record(tmp_path)
    for options in ([], ["--step", "2"]):
        assert main(["show", str(tmp_path), episode_id, *options]) == 0
        assert "iVBORw0KGgo" not in capsys.readouterr().out
    assert main(["show", str(tmp_path), episode_id, "--step", "2"]) == 0
    assert "(image/png, 60 x 60, 11 kB)" in capsys.readouterr().out
    assert main(["show", str(tmp_path), episode_id, "--step", "2", "--json"]) == 0
    assert encoded(2) in capsys.readouterr().out
