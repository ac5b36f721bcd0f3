"""The command `trajrec capture`."""

from __future__ import annotations

import argparse
import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from trajrec.cli.arguments import Commands, add_command
from trajrec.cli.command_servers import require_servers, wrapped_command
from trajrec.cli.interrupts import interrupted_by_signals
from trajrec.cli.load import load_function
from trajrec.cli.output import say
from trajrec.cli.recorded_command import told_command
from trajrec.cli.watched_paths import watched_of
from trajrec.errors import LogWriteError
from trajrec.types import Value
from trajrec.values.shown import counted

if TYPE_CHECKING:
    from trajrec.proxies.recording import CommandRecording
    from trajrec.proxies.server import ProxyServer

BASES = ("openai", "anthropic", "gemini")


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "capture",
        run,
        "record the model calls of a command, in any language",
        "trajrec capture runs --task fix-1 --watch ./repo -- node my_agent.js",
        statuses="that of the command, 2 wrong usage",
    )
    parser.add_argument("dir", type=Path, metavar="DIR", help="folder to record into")
    parser.add_argument("--task", default="", metavar="ID", help="id of the task")
    parser.add_argument(
        "--watch",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="record the state of a folder or SQLite database before and after; implies "
        "--one-episode; repeatable",
    )
    parser.add_argument(
        "--verifier",
        action="append",
        default=[],
        metavar="MODULE:FUNCTION",
        help="a function of the watched path, or without --watch of the exit status, that judges "
        "the command when it has ended; implies --one-episode; repeatable, the first one decides "
        "the outcome",
    )
    parser.add_argument(
        "--metadata",
        action="append",
        default=[],
        type=read_pair,
        metavar="KEY=VALUE",
        help="metadata of the episodes; repeatable",
    )
    parser.add_argument(
        "--interface",
        type=Path,
        metavar="FILE",
        help="JSON file of the conditions of the run; see trajrec.interface",
    )
    parser.add_argument(
        "--one-episode",
        action="store_true",
        help="make one episode of all calls (default: one of each conversation)",
    )
    parser.add_argument(
        "--mcp",
        action="store_true",
        help="record the MCP servers of the configuration that the command names, too; implies "
        "--one-episode",
    )
    add_bases(parser)
    add_command(parser)


def add_bases(parser: argparse.ArgumentParser) -> None:
    """Add --openai-base, --anthropic-base and --gemini-base."""
    for name in BASES:
        parser.add_argument(
            f"--{name}-base",
            default="",
            metavar="URL",
            help=f"server that the calls to {name} go on to (default: the one that the "
            "environment names, else the provider's)",
        )


def bases_of(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the base addresses that a command line gives."""
    return {name: getattr(arguments, f"{name}_base") for name in BASES}


def read_pair(text: str) -> tuple[str, Value]:
    """Read KEY=VALUE; a value that is JSON is taken as such."""
    key, sign, value = text.partition("=")
    if not (key and sign):
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def run(arguments: argparse.Namespace) -> int:
    """Run the command behind a proxy that records; return the command's exit status."""
    from trajrec.proxies.command import Command
    from trajrec.proxies.recording import CommandRecording
    from trajrec.proxies.server import ProxyServer
    from trajrec.proxies.upstreams import command_environment, make_routes

    if not arguments.command:
        raise ValueError("give the command after --: trajrec capture runs -- node my_agent.js")
    routes = make_routes(os.environ, bases_of(arguments))
    verifiers = [load_function(name, "--verifier") for name in arguments.verifier]
    is_one_episode = arguments.one_episode or bool(
        arguments.mcp or arguments.watch or arguments.verifier
    )
    options = episode_options(arguments)
    if arguments.mcp:
        from trajrec.proxies.mcp_messages import find_tool_error

        require_servers(arguments.command)
        options["is_error"] = find_tool_error
    _make_folder(arguments.dir)
    with (
        interrupted_by_signals(),
        CommandRecording(
            arguments.dir, options, is_one_episode=is_one_episode, verifiers=verifiers
        ) as recording,
    ):
        server = ProxyServer(routes, recording.begin, mcp=recording.mcp)
        environment = command_environment(os.environ, server.address, routes, mode="record")
        with wrapped_command(arguments, environment, server, has_servers=arguments.mcp) as words:
            server.start()
            command = Command(words, environment)
            status = recording.run(told_command(arguments.command), command.run)
            server.close()
        recording.end(status)
    _say_verdicts(arguments.dir, recording)
    _say_result(arguments.dir, recording, server)
    return status


def _make_folder(folder: Path) -> None:
    """Make the folder of logs: without it, the command would run and nothing would be recorded.

    Raises:
        LogWriteError: It cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise LogWriteError(f"cannot make the folder of logs: {exc.strerror}", path=folder) from exc
    if not os.access(folder, os.W_OK | os.X_OK):
        raise LogWriteError("cannot write the folder of logs: Permission denied", path=folder)


def episode_options(arguments: argparse.Namespace) -> dict[str, Value]:
    """Return the options of the episodes of a capture.

    Raises:
        ValueError: A path cannot be watched, the metadata cannot be recorded, or the interface is
            no object of JSON.
    """
    from trajrec.task_options import check_metadata

    watched = watched_of(arguments.watch, arguments.dir)
    metadata: dict[str, Value] = {"run": secrets.token_hex(8)}
    metadata.update(arguments.metadata)
    # So that a rerun can say how the episode was made.
    metadata.setdefault("command", told_command(arguments.command))
    try:
        check_metadata(metadata)
    except TypeError as exc:
        raise ValueError(f"--metadata: {exc}") from exc
    options: dict[str, Value] = {"task": arguments.task, "metadata": metadata}
    if watched is not None:
        options["watch"] = watched
    if arguments.interface is not None:
        try:
            options["interface"] = json.loads(arguments.interface.read_text())
        except ValueError as exc:
            raise ValueError(f"--interface {arguments.interface}: must be JSON: {exc}") from exc
        if not isinstance(options["interface"], dict):
            raise ValueError(
                f"--interface {arguments.interface}: must be an object of fields, "
                f"got {options['interface']!r:.100}"
            )
    return options


def _say_result(folder: Path, recording: CommandRecording, server: ProxyServer) -> None:
    """Say on the last line how much was recorded; before it, what was not."""
    if server.n_unsent:
        say(
            f"trajrec: {counted(server.n_unsent, 'request')} got no whole answer from the server; "
            f"the first: {server.first_failure}"
        )
    if server.n_refused:
        say(
            f"trajrec: {counted(server.n_refused, 'request')} refused; the first: "
            f"{server.first_refusal}"
        )
    if recording.n_faults:
        say(
            f"trajrec: {counted(recording.n_faults, 'request')} to a model passed unrecorded; the "
            f"first because of {recording.first_fault}"
        )
    if recording.n_others:
        say(
            f"trajrec: {counted(recording.n_others, 'request')} to no model passed unrecorded; the "
            f"first: {recording.first_other}"
        )
    _say_mcp(recording)
    recorded = [counted(recording.n_episodes, "episode")]
    n_calls = recording.n_model_calls
    if n_calls:
        n_attempts = counted(recording.n_attempts, "HTTP request")
        recorded.append(f"{counted(n_calls, 'model call')} ({n_attempts})")
    else:
        sent_one = server.n_refused or recording.n_faults
        reason = (
            ": the command sent none to the addresses in OPENAI_BASE_URL, ANTHROPIC_BASE_URL and "
            "GOOGLE_GEMINI_BASE_URL"
        )
        say(f"trajrec: no model call was recorded{'' if sent_one else reason}")
    if recording.n_episodes:
        say(f"trajrec: {', '.join(recorded)} recorded; list them: trajrec ls {folder}")


def _say_verdicts(folder: Path, recording: CommandRecording) -> None:
    """Say what each verifier found."""
    for name, verdict in recording.verdicts.items():
        if verdict.passed is not None:
            found = "success" if verdict.passed else "failure"
        elif verdict.score is not None:
            found = f"score {verdict.score:g}"
        else:
            found = f"no verdict; why: trajrec show {folder} {recording.first_id[:8]}"
        say(f"trajrec: {name}: {found}")


def _say_mcp(recording: CommandRecording) -> None:
    """Say how much of MCP servers was recorded."""
    mcp = recording.mcp
    if mcp is None:
        return
    if mcp.n_faults:
        say(
            f"trajrec: {counted(mcp.n_faults, 'message')} of MCP servers passed unrecorded; the "
            f"first because of {mcp.first_fault}"
        )
    if mcp.servers:
        say(
            f"trajrec: {counted(mcp.n_calls, 'tool call')} of {counted(len(mcp.servers), 'server')} "
            f"recorded: {', '.join(sorted(mcp.servers))}"
        )
