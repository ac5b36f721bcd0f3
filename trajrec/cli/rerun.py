"""The command `trajrec rerun`."""

from __future__ import annotations

import argparse
import os
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trajrec.cli.arguments import Commands, add_command, add_episode, add_folder, add_ignore
from trajrec.cli.capture import add_bases, bases_of
from trajrec.cli.command_servers import has_sessions, mcp_answers, mcp_calls, wrapped_command
from trajrec.cli.exit_status import CannotMakeError, ExitStatus
from trajrec.cli.folder import reads_folder
from trajrec.cli.interrupts import interrupted_by_signals
from trajrec.cli.output import say
from trajrec.cli.rerun_tests import function_of, write_test
from trajrec.values.shown import counted

if TYPE_CHECKING:
    from trajrec.corpus.attempts import Attempt
    from trajrec.corpus.corpus import Corpus
    from trajrec.corpus.episode import Episode
    from trajrec.proxies.answering import RerunAnswers
    from trajrec.proxies.mcp_answers import McpAnswers
    from trajrec.replay.agents.rerun import Rerun
    from trajrec.types import JsonObject


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "rerun",
        run,
        "run a command again, answered from its recording",
        "trajrec rerun runs 3f2a -- node my_agent.js",
        statuses="0 same requests, and the command ended with status 0 or as when it was recorded, "
        "1 a difference, 2 wrong usage, 3 damaged log, 4 refused, else that of the command",
    )
    add_folder(parser)
    add_episode(parser)
    add_ignore(parser)
    parser.add_argument(
        "--on-miss",
        choices=("stop", "report", "live"),
        default="stop",
        help="at a request that is not recorded: end the command, refuse the request and go on, or "
        "send this and all later requests and record them as a fork (default: stop)",
    )
    parser.add_argument(
        "--run-tools",
        choices=("all",),
        help="let the command run its own tools, which the recording cannot answer for it",
    )
    parser.add_argument(
        "--save-test",
        type=Path,
        metavar="FILE",
        help="write a test for pytest that does this, and run nothing; COMMAND may be a function, "
        "as module:function",
    )
    add_bases(parser)
    add_command(parser)


@reads_folder
def run(arguments: argparse.Namespace, corpus: Corpus) -> int:
    """Run the command behind a proxy that answers; a difference is a finding."""
    episode = corpus.episode(arguments.episode)
    if not arguments.command:
        raise ValueError(f"give the command after --: {_example(arguments, episode)}")
    if not episode.is_agent_episode:
        raise ValueError(
            f"episode {episode.id} is an environment's; replay it: "
            f"trajrec replay {arguments.dir} --where \"episode_id = '{episode.id}'\""
        )
    if arguments.save_test is not None:
        if arguments.on_miss != "stop":
            raise ValueError("a test ends at the first difference: leave out --on-miss")
        if _commands(episode) and function_of(arguments.command):
            raise ValueError("an episode of --watch is that of a command, not of a function")
        if not function_of(arguments.command):
            # The test would fail by it.
            _require_leave(episode, has_leave=arguments.run_tools is not None)
        write_test(arguments.save_test, arguments, episode.id)
        say(f"trajrec: {arguments.save_test} is written; run it: pytest {arguments.save_test}")
        return ExitStatus.OK
    _require_leave(episode, has_leave=arguments.run_tools is not None)
    if arguments.on_miss == "live" and has_sessions(episode):
        raise CannotMakeError(
            f"episode {episode.id} has sessions of MCP servers, which a recording cannot hand over "
            "to the servers; leave out --on-miss live"
        )
    warn_of_others(corpus, episode)
    return _run_command(arguments, episode)


def _run_command(arguments: argparse.Namespace, episode: Episode) -> int:
    from trajrec.agents.stand_ins import RERUN_FOLDER
    from trajrec.proxies.answering import RerunAnswers
    from trajrec.proxies.command import Command
    from trajrec.proxies.server import ProxyServer
    from trajrec.proxies.upstreams import command_environment, make_routes
    from trajrec.replay.agents.rerun import Rerun

    routes = make_routes(os.environ, bases_of(arguments))
    on_miss: Literal["live", "report"] = "live" if arguments.on_miss == "live" else "report"
    with (
        interrupted_by_signals(),
        Rerun(
            episode,
            on_difference=on_miss,
            folder=arguments.dir,
            ignore=arguments.ignore,
            run_tools=arguments.run_tools,
        ) as rerun,
    ):
        stops: list[Callable[[], None]] = []
        answers = RerunAnswers(rerun, lambda: [stop() for stop in stops])
        mcp = mcp_answers(rerun, lambda: [stop() for stop in stops])
        server = ProxyServer(
            routes, answers.begin, may_send=lambda: rerun.live is not None, mcp=mcp
        )
        environment = command_environment(
            os.environ, server.address, routes, mode="live" if on_miss == "live" else "rerun"
        )
        has_servers = mcp is not None
        with (
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as thrown_away,
            wrapped_command(arguments, environment, server, has_servers=has_servers) as words,
        ):
            environment[RERUN_FOLDER] = thrown_away
            command = Command(words, environment)
            if arguments.on_miss == "stop":
                stops.append(command.stop)
            server.start()
            for attempt in _commands(episode):
                rerun.execute(attempt.tool, attempt.arguments)
            status = command.run()
            server.close()
    return _say_result(rerun, answers, status, mcp)


def _say_result(rerun: Rerun, answers: RerunAnswers, status: int, mcp: McpAnswers | None) -> int:
    """Say how the rerun went; return its exit status."""
    misses = [] if mcp is None else mcp.misses
    if mcp is not None:
        say(f"trajrec: {counted(mcp.n_answered, 'tool call')} of MCP servers answered")
    for miss in misses:
        say(f"trajrec: the recording has no {miss} of an MCP server")
    if answers.n_refused:
        say(
            f"trajrec: {counted(answers.n_refused, 'request')} to no model refused: a recording "
            "has no answers to them"
        )
    difference = rerun.difference
    n_exact = rerun.n_matched["exact"]
    answered = (
        f"trajrec: {counted(answers.n_answered, 'request')} answered from episode "
        f"{rerun.episode.id}, {n_exact} of them the same byte for byte"
    )
    if difference is None:
        if misses:
            return ExitStatus.FINDING
        say(f"{answered}; no difference")
        return _say_status(rerun.episode, status)
    say(f"{answered}; then a difference:")
    for line in str(difference).split("\n"):
        say(f"  {line}")
    if rerun.live is not None:
        say(f"trajrec: it went on live as episode {rerun.live.id}, a fork")
    return ExitStatus.FINDING


def _say_status(episode: Episode, status: int) -> int:
    """Say how the command ended; return 0 if it ended as when it was recorded."""
    from trajrec.proxies.recording import STATUS_REASON

    reason = "" if episode.end is None else episode.end.stop_reason
    recorded = reason.removeprefix(STATUS_REASON)
    if recorded == reason:
        # The conversations of a command tell its status only if it had failed.
        if status:
            say(f"trajrec: the command ended with exit status {status}")
        return status
    is_same = recorded == str(status)
    if status or not is_same:
        then = "as" if is_same else f"and with {recorded}"
        say(f"trajrec: the command ended with exit status {status}, {then} when it was recorded")
    return ExitStatus.OK if is_same else status


def _require_leave(episode: Episode, *, has_leave: bool) -> None:
    """Refuse to run tools that nobody has allowed.

    Raises:
        CannotMakeError: The command calls tools, which would really run.
    """
    ours = {attempt.tool for attempt in _commands(episode)}
    ours |= {attempt.tool for attempt in mcp_calls(episode)}
    tools = sorted({attempt.tool for attempt in episode.transcript.attempts} - ours)
    if tools and not has_leave:
        raise CannotMakeError(
            f"the agent of episode {episode.id} called the tools {', '.join(tools)}, which would "
            "run for real: only answers of models come from the recording; allow it with "
            "--run-tools all"
        )


def _commands(episode: Episode) -> list[Attempt]:
    """Return the recorded runs of a command whose state was watched: one, or none."""
    from trajrec.proxies.recording import COMMAND_TOOL

    attempts = episode.transcript.recorded_attempts
    return [attempt for attempt in attempts if attempt.tool == COMMAND_TOOL]


def warn_of_others(corpus: Corpus, episode: Episode) -> None:
    """Say so if the recorded command had conversations in other episodes."""
    # One command writes one log. The name of a run may be the user's, of many commands.
    query = (
        "SELECT count(*) FROM episodes WHERE episode_id <> ? AND metadata->>'command' IS NOT NULL "
        "AND log = (SELECT any_value(log) FROM all_episodes WHERE episode_id = ? AND kind <> 'copy')"
    )
    ((n_others,),) = corpus.sql(query, params=[episode.id, episode.id]).fetchall()
    if n_others:
        say(
            f"trajrec: the recorded command had {counted(n_others, 'more conversation')}, whose "
            "requests this episode does not have; --one-episode records them together"
        )


def _metadata_of(episode: Episode) -> JsonObject:
    task = episode.transcript.task_start
    if task is None or task.metadata_data is None:
        return {}
    metadata = episode.transcript.value(task.metadata_data)
    return metadata if isinstance(metadata, dict) else {}


def _example(arguments: argparse.Namespace, episode: Episode) -> str:
    """Return a command line that reruns an episode, with the recorded command if there is one."""
    command = _metadata_of(episode).get("command")
    is_command = isinstance(command, list) and all(isinstance(part, str) for part in command)
    words = shlex.join(command) if is_command and command else "node my_agent.js"
    return f"trajrec rerun {arguments.dir} {arguments.episode} -- {words}"
