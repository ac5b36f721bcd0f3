"""The messages of model calls, and the tools that they offer, to cells and rows."""

from __future__ import annotations

from collections.abc import Sequence

from trajrec.corpus.call_contents import CallContent, content_of, offered_tools, plain
from trajrec.corpus.index.cells import digest_or_none
from trajrec.corpus.index.rows import EpisodeRow, MessageRow
from trajrec.corpus.model_calls import ModelCall
from trajrec.corpus.said_messages import SaidMessage
from trajrec.types import Value
from trajrec.values.json import to_json
from trajrec.wire.contents import OfferedTool

MAX_TEXT = 4_000
"""The characters of a message's text that the index holds: the log has them all."""


def message_row(episode: EpisodeRow, said: SaidMessage) -> MessageRow:
    """Return the row of a message."""
    return MessageRow(
        episode_id=episode.episode_id,
        kind=episode.kind,
        number=said.number,
        model_call=said.model_call,
        step=said.step,
        role=said.role,
        origin=said.origin,
        tool=said.tool,
        call_ids=to_json(said.call_ids),
        digest=said.digest,
        n_chars=len(said.text),
        text=said.text[:MAX_TEXT],
    )


class ToolCells:
    """The tools on offer, as cells: the calls of an episode mostly offer the same ones."""

    def __init__(self) -> None:
        self._last: tuple[Sequence[OfferedTool], str | None] = ((), None)

    def names(self, call: ModelCall) -> str | None:
        """Return the names of the tools that a call offers as JSON; None if it offers none."""
        tools = offered_tools(call)
        if tools != self._last[0]:
            self._last = (tools, to_json([tool.name for tool in tools]) if tools else None)
        return self._last[1]


def tools_digest(calls: Sequence[ModelCall]) -> str | None:
    """Return the digest of the tools that the first call offers; None if it offers none."""
    tools = [tool._asdict() for call in calls[:1] for tool in offered_tools(call)]
    return digest_or_none(tools or None)


def prompt_digest(calls: Sequence[ModelCall]) -> str | None:
    """Return the digest of what the first call asks beside instructions; None if it is unknown."""
    for call in calls[:1]:
        content = content_of(call)
        asked = [plain(value) for value in content.messages if not _instructs(content, value)]
        return digest_or_none(asked or None)
    return None


def _instructs(content: CallContent, message: Value) -> bool:
    # Prompts may be numbers of tokens.
    if message is None or isinstance(message, (int, float, list)):
        return False
    return content.message(message)[0].role == "system"
