"""One episode as one file of HTML, which opens anywhere, offline, with the pages of the viewer."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from pathlib import Path

from trajrec.corpus.corpus import Corpus
from trajrec.corpus.scratch import replacing
from trajrec.view.commands import ANY_FOLDER
from trajrec.view.credit_view import read_credit
from trajrec.view.episode_view import EpisodeView
from trajrec.view.evidence import read_evidence
from trajrec.view.film import Thumbnail, picture_at, png, small
from trajrec.view.links import ReportLinks
from trajrec.view.page_values import page_values, pane_values
from trajrec.view.pages import own_file, render

DEFAULT_BYTES = 20_000_000
"""Largest report, unless it is asked for a larger one."""


def make_report(corpus: Corpus, episode_id: str, *, max_bytes: int = DEFAULT_BYTES) -> str:
    """Return an episode as a page of HTML that needs no other file. The same input, the same text.

    Args:
        corpus: The corpus, of which the page holds this episode, and what it knows of it.
        episode_id: The id of the episode, or a beginning of it that no other id has.
        max_bytes: Size that the packed steps may have. With more, the steps farthest from the one
            that the page opens at are left out, and the page says so.

    Raises:
        CorpusError: No episode, or more than one, has an id that begins so.
    """
    from markupsafe import Markup

    episode = corpus.episode(episode_id)
    view = EpisodeView(episode, read_evidence(corpus, episode.id))
    links = ReportLinks()
    step = view.telling_step
    values = page_values(view, step, links, folder=ANY_FOLDER)
    # Without scripts, the one step that is shown has its whole state.
    if step is not None:
        values |= pane_values(view, step, links, folder=ANY_FOLDER, has_state=True)
    steps = [row.step for row in values["rows"]]
    panes, limits = _packed_panes(view, steps, links, max_bytes)
    style = own_file("view.css")
    script = own_file("view.js")
    limits += [f"the list has {len(steps)} of {len(view.steps)} steps"] * (
        len(steps) < len(view.steps)
    )
    limits.append("whole states and values that are cut here: `trajrec view` shows them")
    if view.film is not None:
        values["strip"] = _strip(view, set(steps))
        limits.append(
            f"it has {len(values['strip'])} of its pictures, small: `trajrec view` plays all"
        )
    return render(
        "report.html",
        policy=_policy(style, script),
        # Own files, and letters of base64: nothing recorded.
        style=Markup(style),
        script=Markup(script),
        panes=Markup(panes),
        credit_run=read_credit(corpus, view.id, view.steps, run_id="", sort=""),
        limits="; ".join(limits),
        **values,
    )


def _strip(view: EpisodeView, listed: set[int]) -> list[Thumbnail]:
    """Return the pictures of the strip, each as an address that holds its bytes."""
    found = []
    for step in view.strip:
        picture = picture_at(view.episode, step)
        if picture is not None:
            data = base64.b64encode(png(small(picture))).decode()
            address = f"#{step}" if step in listed else None
            found.append(Thumbnail(step, f"data:image/png;base64,{data}", address))
    return found


def write_report(path: Path, text: str) -> None:
    """Write a report; it replaces a file of this name at once or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, "utf-8", newline="\n")


def _policy(style: str, script: str) -> str:
    return (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src {_hash(style)}; script-src {_hash(script)}"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _packed_panes(
    view: EpisodeView, steps: list[int], links: ReportLinks, max_bytes: int
) -> tuple[str, list[str]]:
    """Return the panes of the steps, packed, and what had to be left out, in words."""
    center = view.telling_step or 0
    # The nearest to the step that the page opens at.
    nearest = sorted(steps, key=lambda step: (abs(step - center), step))
    pictured = {step: _pane(view, step, links) for step in nearest}
    # Steps without their pictures say more than a few steps with them.
    panes = {step: _without_pictures(pane) for step, pane in pictured.items()}
    n_kept = len(steps)
    while True:
        packed = _pack({step: panes[step] for step in sorted(nearest[:n_kept])})
        if len(packed) <= max_bytes or n_kept <= 1:
            break
        n_kept //= 2
    n_bytes = len(packed)
    n_without = 0
    for step in nearest[:n_kept]:
        # Pictures are packed already: they take as many bytes in the file as they have letters.
        n_bytes += len(pictured[step]) - len(panes[step])
        if n_bytes > max_bytes:
            n_without += pictured[step] != panes[step]
        else:
            panes[step] = pictured[step]
    packed = _pack({step: panes[step] for step in sorted(nearest[:n_kept])})
    left_out = len(steps) - n_kept
    limits = [f"{left_out} steps are left out, for the size of the file"] * bool(left_out)
    limits += [f"the pictures of {n_without} steps are left out, for the size of the file"] * bool(
        n_without
    )
    return packed, limits


def _without_pictures(pane: str) -> str:
    """Return the page of a step without its pictures, whose types and sizes stay."""
    # Recorded text has no tags: it is escaped.
    return re.sub(r'<img class="shown"[^>]*>', "", pane)


def _pane(view: EpisodeView, step: int, links: ReportLinks) -> str:
    has_state = step == view.telling_step
    values = pane_values(view, step, links, folder=ANY_FOLDER, has_state=has_state)
    return render("pane.html", **values)


def _pack(panes: dict[int, str]) -> str:
    # Raw deflate, which DecompressionStream calls deflate-raw.
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = json.dumps(panes).encode()
    return base64.b64encode(packer.compress(data) + packer.flush()).decode()
