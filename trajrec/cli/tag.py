"""The command `trajrec tag`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from trajrec.cli.arguments import Commands, add_folder, add_json
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.folder import reads_folder
from trajrec.cli.output import print_json, say
from trajrec.types import Value
from trajrec.values.shown import counted

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus

BY = ("person", "judge", "program")
"""Who may give a label, as `trajrec.corpus.labels.By` has it."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "tag",
        run,
        "append labels to an episode or a step, or read and write files of labels",
        "trajrec tag runs 3f2a split=train reviewed",
    )
    add_folder(parser)
    parser.add_argument(
        "episode", nargs="?", metavar="EPISODE", help="id of an episode, or a unique prefix"
    )
    parser.add_argument(
        "labels",
        nargs="*",
        metavar="NAME[=VALUE]",
        help="labels; a value is JSON, or else a text",
    )
    parser.add_argument("--step", type=int, help="the step; by default the whole episode")
    parser.add_argument("--note", help="append a note, a label with this text")
    parser.add_argument("--by", choices=BY, default="person", help="who gives the labels")
    parser.add_argument("--author", default="", help="name of the person, model or program")
    parser.add_argument("--rationale", default="", help="reason of the labels")
    files = parser.add_mutually_exclusive_group()
    files.add_argument("--read", type=Path, metavar="FILE", help="append the labels of JSON lines")
    files.add_argument("--write", type=Path, metavar="FILE", help="write all labels as JSON lines")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="with --write: replace any file, and not only what the same command wrote",
    )
    add_json(parser)


@reads_folder
def run(arguments: argparse.Namespace, corpus: Corpus) -> ExitStatus:
    """Append labels, or read or write a file of them, and print their number."""
    is_of_files = arguments.read is not None or arguments.write is not None
    if is_of_files == (arguments.episode is not None):
        say("trajrec: give an EPISODE and labels, or --read or --write and a file")
        return ExitStatus.USAGE
    if arguments.read is not None:
        n_labels = corpus.read_labels(arguments.read)
    elif arguments.write is not None:
        n_labels = corpus.write_labels(arguments.write, overwrite=arguments.overwrite)
    else:
        n_labels = _append(arguments, corpus)
        if not n_labels:
            say("trajrec: give at least one NAME=VALUE, NAME or --note")
            return ExitStatus.USAGE
    done = "written" if arguments.write is not None else "appended"
    if arguments.json:
        print_json({"labels": n_labels, "done": done})
    else:
        print(f"{counted(n_labels, 'label')} {done}")
    return ExitStatus.OK


def _append(arguments: argparse.Namespace, corpus: Corpus) -> int:
    """Append the labels of the command line; return their number."""
    from trajrec.corpus.labels import NOTE, LabelLine

    named = [_name_and_value(label) for label in arguments.labels]
    if arguments.note is not None:
        named.append((NOTE, arguments.note))
    return corpus.add_labels(
        LabelLine(
            episode_id=arguments.episode,
            name=name,
            value=value,
            step=arguments.step,
            by=arguments.by,
            author=arguments.author,
            rationale=arguments.rationale,
        )
        for name, value in named
    )


def _name_and_value(label: str) -> tuple[str, Value]:
    """Return a label as it was typed: NAME, or NAME=VALUE with a value that may be JSON."""
    name, mark, text = label.partition("=")
    if not mark:
        return name, None
    try:
        return name, json.loads(text)
    except ValueError:
        return name, text
