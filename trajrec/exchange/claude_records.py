"""The records of a session of Claude Code, put together to a conversation and its branches."""

from __future__ import annotations

from collections.abc import Iterator

from trajrec.exchange.account import Account
from trajrec.exchange.claude_turns import ConversationReader
from trajrec.exchange.reading import Place, texts_by_key
from trajrec.exchange.records import ImportedEpisode, Note
from trajrec.types import JsonObject

SHARED = ("sessionId", "version", "gitBranch", "cwd", "userType", "entrypoint", "agentId")
"""Fields that are mostly the same in all records of a session."""


def is_message(record: JsonObject) -> bool:
    """Return whether a record is a message of the user or the model."""
    return record.get("type") in ("user", "assistant") and type(record.get("message")) is dict


def _message_id(record: JsonObject) -> str | None:
    value = texts_by_key(record.get("message")).get("id")
    return value if type(value) is str else None


def _call_ids(record: JsonObject, kind: str, key: str) -> list[str]:
    """Return the ids in the blocks of one kind."""
    content = texts_by_key(record.get("message")).get("content")
    blocks = content if type(content) is list else []
    ids = [block.get(key) for block in blocks if texts_by_key(block).get("type") == kind]
    return [value for value in ids if type(value) is str]


class SessionReader:
    """Reads the records of one file.

    Args:
        records: The records, in the order of the file.
        place: The file.
        account: Counts the fields.
        position: The position of its conversation.

    Attributes:
        steps_of_agents: The step whose call ran an agent, by the id of the agent.
    """

    def __init__(
        self, records: list[JsonObject], place: Place, account: Account, position: str
    ) -> None:
        self._place = place
        self._account = account
        self._position = position
        self.steps_of_agents: dict[str, int] = {}
        self._conflicts: list[JsonObject] = []
        self._records = self._without_duplicates(records)
        self._by_id = {
            record["uuid"]: index
            for index, record in enumerate(self._records)
            if type(record.get("uuid")) is str
        }
        self._parents = self._find_parents()
        self._shared = self._find_shared()

    def episodes(self) -> Iterator[ImportedEpisode]:
        """Yield the conversation, its branches, and the agents inside of it."""
        groups = self._groups()
        turns: dict[int, int] = {}
        for number, (indices, parent) in enumerate(groups):
            position = self._position if number == 0 else f"{self._position} branch {number}"
            reader = ConversationReader(self._place, self._account, self._shared)
            seeds: list[JsonObject] = []
            step = 0
            if parent is not None:
                seeds = self._path(parent)
                step = turns.get(parent, -1) + 1
            episode = reader.read(
                [(index, self._records[index]) for index in indices],
                position=position,
                seeds=seeds,
                first_step=step,
                turns=turns,
            )
            if parent is not None:
                episode.fork = (self._position, step)
            elif number:
                episode.caller = self._position
            else:
                self.steps_of_agents = reader.steps_of_agents
                episode.items += [
                    Note(values={"duplicate of": record.get("uuid"), "record": record})
                    for record in self._conflicts
                ]
            yield episode

    def _without_duplicates(self, records: list[JsonObject]) -> list[JsonObject]:
        """Return the first record of each id: a session that is resumed repeats some."""
        first: dict[str, JsonObject] = {}
        unique = []
        for record in records:
            uuid = record.get("uuid")
            if type(uuid) is str and uuid in first:
                if first[uuid] == record:
                    self._account.drop("a record repeats an earlier one", len(record))
                else:
                    self._account.note("records of one id differ: the first one stands")
                    self._account.keep("conflicting record", len(record))
                    self._conflicts.append(record)
                continue
            if type(uuid) is str:
                first[uuid] = record
            unique.append(record)
        return unique

    def _find_parents(self) -> list[int | None]:
        """Return the record that each one follows.

        A record that names none that is there follows the message before it; one of an agent
        inside of the session begins a conversation.
        """
        parents: list[int | None] = []
        last: int | None = None
        for index, record in enumerate(self._records):
            named = record.get("parentUuid") or record.get("logicalParentUuid")
            parent = self._by_id.get(named) if type(named) is str else None
            is_inner = record.get("isSidechain") is True
            if parent is None and not is_inner:
                parent = last
            parents.append(None if parent == index else parent)
            if is_message(record) and not is_inner:
                last = index
        return parents

    def _find_shared(self) -> JsonObject:
        shared: JsonObject = {}
        for record in self._records:
            for name in SHARED:
                if record.get(name) is not None:
                    shared.setdefault(name, record[name])
        return shared

    def _path(self, index: int) -> list[JsonObject]:
        """Return the messages from the root to a record."""
        ancestors = [self._records[number] for number in self._ancestors(index)]
        return [record["message"] for record in ancestors[::-1] if is_message(record)]

    def _ancestors(self, index: int) -> Iterator[int]:
        seen: set[int] = set()
        current: int | None = index
        while current is not None and current not in seen:
            seen.add(current)
            yield current
            current = self._parents[current]

    def _groups(self) -> list[tuple[list[int], int | None]]:
        """Return the records of the conversation, then those of each branch or inner agent.

        With each branch comes the record that it follows, None for an inner agent.
        """
        n = len(self._records)
        owner: dict[int, int] = {}
        leaves = self._leaves()
        parents: list[int | None] = []
        for leaf in leaves:
            if leaf in owner:
                continue
            number = len(parents)
            parent: int | None = None
            for index in self._ancestors(leaf):
                if index in owner:
                    parent = index
                    break
                owner[index] = number
            parents.append(parent)
            self._claim(owner, number)
        if not parents:
            parents.append(None)
        groups: list[list[int]] = [[] for _ in parents]
        for index in range(n):
            # Records that are no messages belong to the conversation.
            groups[owner.get(index, 0)].append(index)
        return list(zip(groups, parents, strict=True))

    def _leaves(self) -> list[int]:
        """Return the messages that may end a conversation: the last one, then the others.

        A result is no end: it belongs to its call, whose other calls may follow it.
        """
        candidates = [index for index, record in enumerate(self._records) if is_message(record)]
        main = [i for i in candidates if self._records[i].get("isSidechain") is not True]
        sides = [i for i in candidates if self._records[i].get("isSidechain") is True]
        if not main:
            main = sides
            sides = []
        return [*main[::-1], *sides[::-1]]

    def _claim(self, owner: dict[int, int], number: int) -> None:
        """Give an episode the other lines of its messages, and the results of its calls."""
        ids: set[str] = set()
        calls: set[str] = set()
        for index, of in owner.items():
            if of == number:
                record = self._records[index]
                message_id = _message_id(record)
                if message_id is not None and record.get("type") == "assistant":
                    ids.add(message_id)
                calls.update(_call_ids(record, "tool_use", "id"))
        changed = True
        while changed:
            changed = False
            for index, record in enumerate(self._records):
                if index in owner or not is_message(record):
                    continue
                if record.get("type") == "assistant" and _message_id(record) in ids:
                    calls.update(_call_ids(record, "tool_use", "id"))
                elif not calls.intersection(_call_ids(record, "tool_result", "tool_use_id")):
                    continue
                owner[index] = number
                changed = True
