"""The command `trajrec film`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from trajrec.cli.arguments import (
    Commands,
    add_environment,
    add_episode,
    add_folder,
    read_count,
    read_seconds,
    read_slice,
)
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.folder import reads_folder
from trajrec.cli.load import load_env
from trajrec.cli.output import say
from trajrec.paths import fixed_path

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus
    from trajrec.corpus.episode import Episode
    from trajrec.replay import ReplayReport
    from trajrec.view.film_file import Reel


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "film",
        run,
        "write the pictures of an episode as a film, or as a sheet",
        "trajrec film runs 3f2a -o episode.gif",
        finding="the replay that draws the episode diverged: the film ends before that step",
    )
    add_folder(parser)
    add_episode(parser)
    parser.add_argument(
        "-o",
        dest="out",
        type=fixed_path,
        required=True,
        metavar="FILE",
        help="*.gif, *.mp4, or *.png for a sheet of at most 24 pictures; overwritten",
    )
    parser.add_argument(
        "--render",
        action="store_true",
        help="run the episode again, and take the pictures that its environment draws "
        "(default: the pictures in its observations)",
    )
    parser.add_argument(
        "--steps",
        type=read_slice,
        default=slice(None),
        metavar="FIRST:STOP[:EVERY]",
        help="only these steps, without STOP",
    )
    parser.add_argument(
        "--fps",
        type=read_seconds,
        default=25.0,
        metavar="N",
        help="pictures per second (default: 25)",
    )
    parser.add_argument(
        "--scale",
        type=read_count,
        metavar="N",
        help="show each pixel as N x N (default: small pictures are enlarged to about 256 pixels)",
    )
    add_environment(parser)


@reads_folder
def run(arguments: argparse.Namespace, corpus: Corpus) -> ExitStatus:
    """Write the pictures of an episode."""
    from trajrec.view.film_file import check_suffix, write_film

    check_suffix(arguments.out)
    episode = corpus.episode(arguments.episode)
    if not _chosen(episode, arguments.steps):
        raise ValueError(f"episode {episode.id} has no such steps: it has {episode.n_steps}")
    report = None
    if arguments.render:
        report, reel = _rendered(episode, arguments)
    else:
        reel = _recorded(episode, arguments.steps)
    if len(reel) == 0:
        raise ValueError(_why_empty(episode, report))
    n_missing = len(_chosen(episode, arguments.steps)) - len(reel)
    steps = write_film(arguments.out, reel, fps=arguments.fps, scale=arguments.scale)
    source = "as they were observed" if report is None else f"drawn by a replay: {report.grade}"
    size_kb = arguments.out.stat().st_size / 1000
    print(
        f"{arguments.out}: {len(steps)} pictures, {_name(steps[0])} to {_name(steps[-1])}, "
        f"{source}; {size_kb:,.0f} kB"
    )
    if n_missing and (report is None or report.divergence is None):
        say(f"steps without a picture: {n_missing}; they raised, or the log has lost them")
    if report is not None and report.grade != "exact":
        say(f"the replay: {report}")
    if report is None or report.divergence is None:
        return ExitStatus.OK
    say("the film ends before the step at which the replay diverged")
    return ExitStatus.FINDING


def _recorded(episode: Episode, steps: slice) -> Reel:
    """Return the pictures that an environment observed."""
    from trajrec.view.film import picture_at, reset_picture
    from trajrec.view.film_file import Reel

    reel = Reel()
    for step in _chosen(episode, steps):
        picture = reset_picture(episode) if step < 0 else picture_at(episode, step)
        if picture is not None:
            reel.add(step, picture)
    return reel


def _rendered(episode: Episode, arguments: argparse.Namespace) -> tuple[ReplayReport, Reel]:
    """Return the pictures of a replay, up to the step at which it differs."""
    from trajrec.replay.rendering import render_episode
    from trajrec.types import Value
    from trajrec.view.film import picture_of
    from trajrec.view.film_file import Reel

    reel = Reel()
    chosen = set(_chosen(episode, arguments.steps))

    def take(n_steps: int, drawn: Value) -> None:
        if n_steps - 1 not in chosen:
            return
        picture = picture_of(drawn)
        if picture is not None:
            reel.add(n_steps - 1, picture)

    env = None if arguments.env is None else load_env(arguments.env)
    report = render_episode(episode, take, allow=arguments.allow, env=env)
    if report.divergence is not None:
        reel.cut(report.divergence.step)
    return report, reel


def _chosen(episode: Episode, steps: slice) -> list[int]:
    """Return the chosen steps; the reset, as step -1, is the first picture of a whole episode."""
    own = list(range(episode.first_step, episode.end_step))[steps]
    begins = steps.start is None and episode.first_step == 0 and episode.has_reset
    return [-1, *own] if begins else own


def _why_empty(episode: Episode, report: ReplayReport | None) -> str:
    if report is None:
        remedy = (
            ""
            if episode.is_agent_episode
            else "; --render runs it again, and takes the pictures that its environment draws"
        )
        return f"episode {episode.id} has no pictures in its observations{remedy}"
    if report.divergence is not None:
        return f"episode {episode.id}: the replay diverged at once: {report.divergence}"
    return f"episode {episode.id}: its environment draws no pictures of one, three or four channels"


def _name(step: int) -> str:
    return "the reset" if step < 0 else f"step {step}"
