"""The command `trajrec mcp`: record an MCP server's session, or answer from a recorded one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trajrec.cli.arguments import Commands, add_command
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.output import say
from trajrec.cli.recorded_command import told_command
from trajrec.cli.watched_paths import watched_of
from trajrec.values.shown import counted

if TYPE_CHECKING:
    from trajrec.agents.episode import AgentEpisode
    from trajrec.corpus.transcript import Attempt, Transcript
    from trajrec.proxies.mcp_answers import RecordedCall, RecordedCalls, RecordedRequest


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "mcp",
        run,
        "record the tool calls of an MCP server over stdio, or answer them from a recording",
        "trajrec mcp runs --task notes -- python my_server.py",
        statuses="that of the server; with --answer, 1 for a request that was not recorded, 2 wrong usage",
    )
    parser.add_argument("dir", type=Path, metavar="DIR", help="folder to record into")
    parser.add_argument("--task", default="", metavar="ID", help="id of the task")
    parser.add_argument(
        "--watch",
        type=Path,
        metavar="PATH",
        help="record the changes in a folder or a SQLite database after each call",
    )
    parser.add_argument(
        "--answer",
        metavar="EPISODE",
        help="answer from this episode of DIR, without a server",
    )
    add_command(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    if arguments.answer is not None:
        return _answer(arguments)
    if not arguments.command:
        raise ValueError("give the server after --: trajrec mcp runs -- python my_server.py")
    from trajrec.agents.episode import AgentEpisode
    from trajrec.proxies.mcp_messages import find_tool_error

    episode = AgentEpisode(
        arguments.dir,
        task=arguments.task,
        watch=watched_of([] if arguments.watch is None else [arguments.watch], arguments.dir),
        metadata={"mcp_server": told_command(arguments.command)},
        is_error=find_tool_error,
        wire=False,
    )
    with episode:
        status = _relay(episode, arguments.command)
        if status:
            episode.stop(f"the server ended with status {status}")
    return status


def _relay(episode: AgentEpisode, command: list[str]) -> int:
    from trajrec.proxies.mcp_relay import Relay, Side
    from trajrec.proxies.mcp_session import McpSession
    from trajrec.proxies.mcp_sessions import McpRecording

    recording = McpRecording(episode)
    session = McpSession(episode)

    def tell(side: Side, line: bytes) -> None:
        recording.take_line(session, line, is_from_client=side == "client")

    out = open(sys.stdout.fileno(), "wb", closefd=False)  # noqa: SIM115
    status = Relay(command, tell).run(sys.stdin.fileno(), out)
    recording.close(session)
    if recording.n_faults:
        say(
            f"trajrec: {counted(recording.n_faults, 'message')} passed unrecorded; the first because "
            f"of {recording.first_fault}"
        )
    return status


def _answer(arguments: argparse.Namespace) -> ExitStatus:
    """Answer a client on stdin from an episode."""
    from trajrec.proxies.mcp_answers import SessionAnswers
    from trajrec.proxies.mcp_messages import read_messages

    calls, others = _recorded(arguments)
    answers = SessionAnswers(calls, others)
    out = sys.__stdout__
    assert out is not None
    for line in sys.stdin.buffer:
        for message in read_messages(line):
            if message.is_request:
                out.buffer.write(answers.answer(message))
        out.buffer.flush()
    for miss in answers.misses:
        print(f"trajrec: the recording has no {miss}", file=sys.stderr)
    if calls.n_left:
        print(f"trajrec: the client left out {calls.n_left} recorded calls", file=sys.stderr)
    return ExitStatus.FINDING if answers.misses or calls.n_left else ExitStatus.OK


def _recorded(arguments: argparse.Namespace) -> tuple[RecordedCalls, list[RecordedRequest]]:
    import trajrec
    from trajrec.proxies.mcp_answers import RecordedCalls

    with trajrec.open(arguments.dir) as corpus:
        transcript = corpus.episode(arguments.answer).transcript
        calls = [recorded_call(attempt) for attempt in transcript.recorded_attempts]
        return RecordedCalls(calls), recorded_requests(transcript)


def recorded_call(attempt: Attempt) -> RecordedCall:
    """Return a recorded attempt as the call of a session."""
    from trajrec.proxies.mcp_answers import RecordedCall

    end = attempt.end
    return RecordedCall(
        attempt.tool,
        attempt.arguments,
        attempt.result,
        error=end.message if end is not None and end.is_raised else "",
        is_given_up=end is not None and end.outcome == "cancelled",
        is_open=end is None,
    )


def recorded_requests(transcript: Transcript) -> list[RecordedRequest]:
    """Return the requests of an episode's MCP sessions that are no tool calls."""
    from trajrec.proxies.mcp_answers import RecordedRequest
    from trajrec.proxies.mcp_session import IS_ERROR, SIDE_EFFECT_PREFIX

    requests = []
    for event in transcript.side_effects:
        if not event.name.startswith(SIDE_EFFECT_PREFIX):
            continue
        *server, method = event.name.removeprefix(SIDE_EFFECT_PREFIX).split(" ", 1)
        given = transcript.value(event.arguments_data) or [{}]
        requests.append(
            RecordedRequest(
                server="".join(server),
                method=method,
                params=given[0],
                result=transcript.value(event.value_data),
                is_error=IS_ERROR in given[1:],
            )
        )
    return requests
