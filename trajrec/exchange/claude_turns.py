"""One conversation of Claude Code: its lines become turns, calls, results and messages."""

from __future__ import annotations

from collections import defaultdict

from trajrec.exchange.account import Account
from trajrec.exchange.reading import Place, texts_by_key
from trajrec.exchange.records import Call, Fault, ImportedEpisode, Item, Message, Note, Turn
from trajrec.types import JsonObject, Value

RECORD = frozenset(("type", "message", "timestamp"))
RESULT_RECORD = RECORD | {"toolUseResult"}
SYSTEM = frozenset(("type", "timestamp"))
ERROR = frozenset(("type", "message"))
MESSAGE = frozenset(("id", "type", "role", "model", "content", "stop_reason", "usage"))

# The beginning of what Claude Code writes as the result of a call that the user has refused.
REJECTION = "The user doesn't want to"

KNOWN_TYPES = frozenset(
    (
        "system",
        "summary",
        "queue-operation",
        "file-history-snapshot",
        "attachment",
        "progress",
        "mode",
        "custom-title",
        "last-prompt",
        "permission-mode",
    )
)


class ConversationReader:
    """Reads the lines of one conversation.

    Args:
        place: The file.
        account: Counts the fields.
        shared: Fields that are mostly the same in all records of the session.

    Attributes:
        steps_of_agents: The step whose call ran an agent, by the id of the agent.
    """

    def __init__(self, place: Place, account: Account, shared: JsonObject) -> None:
        self._place = place
        self._account = account
        self._shared = shared
        self._items: list[Item] = []
        self._turns: dict[str, Turn] = {}
        self._waiting: dict[str, list[Call]] = defaultdict(list)
        self._early: dict[str, list[tuple[JsonObject, JsonObject]]] = defaultdict(list)
        self._step = -1
        self._steps_of_calls: dict[str, int] = {}
        self._begins_anew = False
        self._model = ""
        self._first_times: dict[str, Value] = {}
        self.steps_of_agents: dict[str, int] = {}

    def read(
        self,
        records: list[tuple[int, JsonObject]],
        *,
        position: str,
        seeds: list[JsonObject],
        first_step: int,
        turns: dict[int, int],
    ) -> ImportedEpisode:
        """Return the episode of some records.

        Args:
            records: The records with their numbers.
            position: The position of the episode.
            seeds: The messages before a branch.
            first_step: The number of its first step.
            turns: Takes the step of each record.
        """
        self._step = first_step - 1
        self._items += [
            Message(value={name: seed[name] for name in ("role", "content") if name in seed})
            for seed in seeds
        ]
        times = []
        goal: Value = None
        for index, record in records:
            time_ns = self._account.time(record.get("timestamp"))
            times += [time_ns] if time_ns else []
            self._add(record, time_ns)
            turns[index] = self._step
            if goal is None and record.get("type") == "user":
                goal = texts_by_key(record.get("message")).get("content")
        self._add_early()
        return ImportedEpisode(
            position=position,
            version=str(self._shared.get("version") or ""),
            goal=goal,
            start_ns=min(times, default=0),
            end_ns=max(times, default=0),
            items=self._items,
            interface=self._interface(),
            extra=self._shared or None,
        )

    def _interface(self) -> JsonObject:
        shared = self._shared
        scaffold = {"name": "claude-code", "version": shared.get("version")}
        env = {name: shared[name] for name in ("cwd", "gitBranch") if name in shared}
        interface: JsonObject = {"scaffold": scaffold}
        if env:
            interface["env"] = env
        if self._model:
            interface["base"] = {"model": self._model}
        return interface

    def _add(self, record: JsonObject, time_ns: int) -> None:
        kind = record.get("type")
        message = record.get("message")
        if kind == "assistant" and type(message) is dict:
            self._add_answer(record, message, time_ns)
        elif kind in ("user", "summary") and type(message) is dict:
            self._add_user(record, message, time_ns)
        elif kind == "system" and record.get("subtype") == "api_error":
            self._add_error(record, time_ns)
        else:
            if kind == "system" and record.get("subtype") == "compact_boundary":
                self._begins_anew = True
            if kind not in KNOWN_TYPES:
                self._account.note(f"records of type {kind!r} are kept as notes of their steps")
            self._account.take(record, "record", frozenset(("type",)))
            self._items.append(Note(values=record))

    def _rest(self, record: JsonObject, placed: frozenset[str]) -> JsonObject | None:
        """Return the fields of a record that have no place, and are not those of the session."""
        shared = {name for name, value in self._shared.items() if record.get(name) == value}
        return self._account.take(record, "record", placed | shared)

    def _add_answer(self, record: JsonObject, message: JsonObject, time_ns: int) -> None:
        rest = self._rest(record, RECORD) or {}
        message_rest = self._account.take(
            message, "message", MESSAGE, {"type": "message", "role": "assistant"}
        )
        if message_rest is not None:
            rest["message"] = message_rest
        content = message.get("content")
        blocks = content if type(content) is list else [{"type": "text", "text": content}]
        # Another value stays in the answer.
        named = message.get("model")
        model = named if type(named) is str else ""
        self._model = model or self._model
        message_id = message.get("id")
        turn = self._turns.get(message_id) if type(message_id) is str else None
        if turn is None:
            self._step += 1
            fields = {name: message[name] for name in MESSAGE if message.get(name) is not None}
            turn = Turn(
                message={"role": "assistant", "content": []},
                model=model,
                answer={**fields, "type": "message", "role": "assistant", "content": []},
                extra={"lines": []},
                begins_anew=self._begins_anew,
            )
            self._begins_anew = False
            self._items.append(turn)
            if type(message_id) is str:
                self._turns[message_id] = turn
        else:
            # The end of the turn is the time of its last line.
            rest["timestamp"] = record.get("timestamp")
            if turn.extra is not None and "first_timestamp" not in turn.extra:
                turn.extra["first_timestamp"] = self._first_times.get(str(message_id))
        self._first_times.setdefault(str(message_id), record.get("timestamp"))
        turn.end_ns = time_ns or turn.end_ns
        _extend(turn, blocks, message, rest)
        self._add_calls(blocks, record.get("uuid"), time_ns)

    def _add_calls(self, blocks: list[Value], record_id: Value, time_ns: int) -> None:
        for number, block in enumerate(blocks):
            fields = texts_by_key(block)
            if fields.get("type") != "tool_use":
                continue
            place = self._place.at(f"record {record_id} content[{number}]")
            tool = ""
            call_id = ""
            # The message has the block, but there is no such call.
            with self._account.attempt(place.position):
                call_id = place.optional(str, fields.get("id"), "the id of a call", "")
                tool = place.expect(str, fields.get("name"), "the name of a tool")
            if not tool:
                continue
            arguments = fields.get("input")
            is_object = isinstance(arguments, dict)
            call = Call(
                tool=tool,
                arguments=arguments if isinstance(arguments, dict) else {"": arguments},
                call_id=call_id,
                invalid="" if is_object else "malformed arguments",
                outcome="open",
                start_ns=time_ns,
            )
            self._items.append(call)
            self._steps_of_calls[call.call_id] = self._step
            early = self._early.get(call.call_id)
            if early:
                self._set_result(call, *early.pop(0))
            else:
                self._waiting[call.call_id].append(call)

    def _add_user(self, record: JsonObject, message: JsonObject, time_ns: int) -> None:
        rest = self._rest(record, RESULT_RECORD) or {}
        message_rest = self._account.take(message, "message", frozenset(("role", "content")))
        if message_rest is not None:
            rest["message"] = message_rest
        if record.get("type") == "summary":
            rest["type"] = "summary"
        content = message.get("content")
        value = {"role": message.get("role", "user"), "content": content}
        has_result = False
        for block in content if type(content) is list else ():
            fields = texts_by_key(block)
            if fields.get("type") == "tool_result":
                has_result |= self._add_result(fields, record)
        if record.get("toolUseResult") is not None and not has_result:
            rest["toolUseResult"] = record["toolUseResult"]
        self._items.append(Message(value=value, time_ns=time_ns, extra=rest or None))

    def _add_result(self, block: JsonObject, record: JsonObject) -> bool:
        """Add a result to its call, now or when the call comes; return whether it names one."""
        call_id = block.get("tool_use_id")
        if type(call_id) is not str:
            return False
        waiting = self._waiting.get(call_id)
        if waiting:
            self._set_result(waiting.pop(0), block, record)
        else:
            # A result may stand before its call.
            self._early[call_id].append((block, record))
        return True

    def _set_result(self, call: Call, block: JsonObject, record: JsonObject) -> None:
        call.has_result = True
        call.result = block.get("content")
        call.end_ns = self._account.time(record.get("timestamp"))
        call.outcome = "ok"
        structured = record.get("toolUseResult")
        if structured is not None:
            call.result_extra = {"toolUseResult": structured}
            agent = texts_by_key(structured).get("agentId")
            if type(agent) is str:
                self.steps_of_agents[agent] = self._steps_of_calls.get(call.call_id, -1)
        if block.get("is_error") is True:
            text = _text_of(call.result)
            is_refused = text.startswith(REJECTION)
            call.outcome = "error"
            call.origin = "user" if is_refused else "tool"
            call.error_type = "rejected" if is_refused else "error"
            call.error = text

    def _add_early(self) -> None:
        """Note the results whose calls never came; their messages have them."""
        left = [pair for pairs in self._early.values() for pair in pairs]
        if left:
            self._account.note("results whose calls are not in the session stay messages")
        for _, record in left:
            if record.get("toolUseResult") is not None:
                self._items.append(Note(values={"toolUseResult": record["toolUseResult"]}))

    def _add_error(self, record: JsonObject, time_ns: int) -> None:
        rest = self._rest(record, SYSTEM | {"error"})
        error = texts_by_key(record.get("error"))
        if record.get("error") is not None and not error:
            rest = {**(rest or {}), "error": record["error"]}
        error_rest = self._account.take(error, "error", ERROR) if error else None
        if error_rest is not None:
            rest = {**(rest or {}), "error": error_rest}
        kind = error.get("type")
        odd = {k: error[k] for k in ERROR if type(error.get(k)) not in (str, type(None))}
        if odd:
            rest = {**(rest or {}), "error": {**(error_rest or {}), **odd}}
        self._items.append(
            Fault(
                origin="infra",
                error_type=kind if type(kind) is str else "api_error",
                message=_text_of(error.get("message")),
                time_ns=time_ns,
                extra=rest,
            )
        )


def _extend(turn: Turn, blocks: list[Value], message: JsonObject, rest: JsonObject) -> None:
    """Add a line of a message to its turn. Each line repeats the usage: the last one stands."""
    assert turn.message is not None
    assert turn.extra is not None
    turn.message["content"] = [*turn.message["content"], *blocks]
    answer = turn.answer
    answer["content"] = turn.message["content"]
    for name in ("usage", "stop_reason"):
        value = message.get(name)
        if value is None:
            continue
        if answer.get(name) not in (None, value):
            rest.setdefault("earlier", {})[name] = answer[name]
        answer[name] = value
    if rest:
        turn.extra["lines"].append(rest)


def _text_of(value: Value) -> str:
    """Return the text of a result: a text, or blocks of which some have texts."""
    if type(value) is str:
        return value
    if type(value) is list:
        texts = [texts_by_key(block).get("text") for block in value]
        return "\n".join(text for text in texts if type(text) is str)
    return ""
