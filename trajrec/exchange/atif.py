"""ATIF, the format of Harbor that most agents are converted to: versions 1.0 to 1.8.

A file holds one document, a list of documents, or one document a line. A step of the agent is a
turn; one of the user or the system is a message. The format has no errors of calls: their outcome
is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from trajrec.exchange.account import Account
from trajrec.exchange.candidates import Candidate, Format, records_of
from trajrec.exchange.chat import assistant, tool_call, tool_result, usage_of_counts
from trajrec.exchange.reading import Place, dicts_of
from trajrec.exchange.records import Call, ImportedEpisode, Item, Message, Turn
from trajrec.exchange.times import text_of_time
from trajrec.types import JsonObject, Value

DOCUMENT = frozenset(("schema_version", "agent", "steps", "final_metrics", "subagent_trajectories"))
AGENT = frozenset(("name", "version", "model_name", "tool_definitions"))
STEP = frozenset(
    (
        "step_id",
        "source",
        "message",
        "timestamp",
        "model_name",
        "reasoning_effort",
        "reasoning_content",
        "tool_calls",
        "observation",
        "metrics",
    )
)
MESSAGE = frozenset(("step_id", "source", "message", "timestamp", "observation"))
"""The fields of a step that have a place if it is a message of the user or the system."""
NO_MODEL = MESSAGE | {"reasoning_content", "tool_calls"}
"""The same if it is a step of the agent that no model gave."""
COPIED = MESSAGE | {"reasoning_content"}
"""The same if it is a step of the agent that was copied from another trajectory."""
BY_POSITION: JsonObject = {"paired": "by position"}
"""Is kept beside a result that names no call, and whose call only its position tells."""
CALL = frozenset(("tool_call_id", "function_name", "arguments"))
OBSERVATION = frozenset(("results",))
RESULT = frozenset(("source_call_id", "content"))
METRICS = frozenset(("prompt_tokens", "completion_tokens", "cached_tokens", "cost_usd"))

Subagents = Callable[[JsonObject], str | None]
"""Returns the position of the trajectory that a reference names, None if it is not there."""


def is_document(value: Value) -> bool:
    """Return whether a value is a document."""
    if type(value) is not dict:
        return False
    version = value.get("schema_version")
    return isinstance(version, str) and version.startswith("ATIF-v") and "steps" in value


def _matches(candidate: Candidate) -> bool:
    return is_document(candidate.first_record)


def _read(candidate: Candidate, account: Account) -> Iterator[ImportedEpisode]:
    place = Place(candidate.path)
    if is_document(candidate.document) and candidate.path.suffix != ".jsonl":
        yield from read_document(candidate.fields, place, account, position="")
        return

    def read(position: str, document: JsonObject) -> Iterator[ImportedEpisode]:
        return read_document(document, place.at(position), account, position=position)

    yield from account.whole_parts(records_of(candidate, account, "a trajectory"), read)


def read_document(
    document: JsonObject, place: Place, account: Account, *, position: str
) -> Iterator[ImportedEpisode]:
    """Yield the episode of a document, and those of the agents that are embedded in it."""
    nested = dicts_of(place, document.get("subagent_trajectories"), "subagent_trajectories")
    by_name: dict[str, str] = {}
    for number, subagent in enumerate(nested):
        inner = f"{position} subagent {number}".strip()
        for name in ("trajectory_id", "session_id"):
            if isinstance(subagent.get(name), str):
                by_name.setdefault(subagent[name], inner)

    def find(reference: JsonObject) -> str | None:
        names = (reference.get("trajectory_id"), reference.get("session_id"))
        return next((by_name[name] for name in names if name in by_name), None)

    reader = TrajectoryReader(account, find)
    reader.add(document, place)
    yield reader.finish(position or "document")
    for number, subagent in enumerate(nested):
        inner = f"{position} subagent {number}".strip()
        if not is_document(subagent):
            raise place.error(f"subagent_trajectories[{number}] is no ATIF document")
        episodes = read_document(
            subagent, place.at(f"subagent_trajectories[{number}]"), account, position=inner
        )
        for episode in episodes:
            # Those that it has begun itself name it as their caller.
            if episode.caller is None:
                episode.caller = position or "document"
                episode.caller_step = reader.callers.get(inner, -1)
            yield episode


class TrajectoryReader:
    """Puts the documents of one trajectory together: it may be continued in others.

    Args:
        account: Counts the fields.
        find: Finds the trajectories of other agents.

    Attributes:
        callers: The step in which each other trajectory was begun, by its position.
    """

    def __init__(self, account: Account, find: Subagents) -> None:
        self._account = account
        self._find = find
        self._items: list[Item] = []
        self._documents: list[JsonObject] = []
        self._model = ""
        self._step = -1
        self._begins_anew = False
        self._extras: JsonObject = {}
        self._tools: list[list[Value]] | None = None
        self._agent: JsonObject = {}
        self.callers: dict[str, int] = {}

    def add(self, document: JsonObject, place: Place) -> None:
        """Add a document, or the continuation of those before it."""
        self._begins_anew = bool(self._documents)
        self._documents.append(document)
        agent = place.optional(dict, document.get("agent"), "agent", {})
        rest = self._account.take(document, "trajectory", DOCUMENT)
        agent_rest = self._account.take(agent, "agent", AGENT)
        definitions = agent.get("tool_definitions")
        tools = tools_of(place, definitions)
        self._tools = self._tools or tools
        self._agent = self._agent or agent
        # Fields whose place another part has taken, or that their place cannot hold as they are.
        kept = {name: value for name, value in agent.items() if self._agent.get(name) != value}
        if definitions and (self._tools != tools or definitions_of(tools or []) != definitions):
            kept["tool_definitions"] = definitions
        if not self._agent.get("name") and agent.get("version") is not None:
            kept["version"] = agent["version"]
        if kept:
            agent_rest = {**(agent_rest or {}), **kept}
        if rest is not None or agent_rest is not None:
            extra = dict(rest or {})
            if agent_rest is not None:
                extra["agent"] = agent_rest
            self._extras[f"part {len(self._documents)}"] = extra
        self._model = place.optional(str, agent.get("model_name"), "agent.model_name", "")
        steps = dicts_of(place, document.get("steps"), "steps")
        for number, step in enumerate(steps):
            self._add_step(step, number + 1, place.at(f"steps[{number}]"))

    def finish(self, position: str) -> ImportedEpisode:
        """Return the episode."""
        *earlier, last = self._documents
        versions = dict.fromkeys(
            str(document["schema_version"]).removeprefix("ATIF-v") for document in self._documents
        )
        for number, document in enumerate(earlier, 1):
            if document.get("final_metrics") is not None:
                part = self._extras.setdefault(f"part {number}", {})
                part["final_metrics"] = document["final_metrics"]
        extra: Value = self._extras
        if list(self._extras) == ["part 1"]:
            extra = self._extras["part 1"]
        name = self._agent.get("name")
        users = (
            item.value.get("content")
            for item in self._items
            if isinstance(item, Message) and item.value.get("role") == "user"
        )
        scaffold = {key: self._agent[key] for key in ("name", "version") if key in self._agent}
        interface: JsonObject = {}
        if name:
            interface["scaffold"] = scaffold
        if self._model:
            interface["base"] = {"model": self._model}
        return ImportedEpisode(
            position=position,
            version=", ".join(versions),
            goal=next(users, None),
            tools=self._tools,
            interface=interface or None,
            items=self._items,
            # Each part of a trajectory counts those before it: the last one has the whole.
            reported=last.get("final_metrics"),
            extra=extra or None,
        )

    def _add_step(self, step: JsonObject, number: int, place: Place) -> None:
        source = place.expect(str, step.get("source"), "source")
        time_ns = self._account.time(step.get("timestamp"))
        observation = place.optional(dict, step.get("observation"), "observation", {})
        is_copied = source == "agent" and step.get("is_copied_context") is True
        rest = self._account.take(step, "step", _placed(step, is_copied=is_copied)) or {}
        if observation:
            inner = self._account.take(observation, "observation", OBSERVATION)
            if inner is not None:
                rest["observation"] = inner
        if step.get("step_id") != number:
            rest["step_id"] = step.get("step_id")
        text = step.get("timestamp")
        # A step without a model call has no record with a time.
        is_timed = source != "agent" or is_copied or step.get("llm_call_count") != 0
        if time_ns and (not is_timed or text != text_of_time(time_ns)):
            rest["timestamp"] = text
        if source != "agent":
            role = source if source in ("user", "system") else "user"
            if role != source:
                rest["source"] = source
            value = {"role": role, "content": step.get("message")}
            self._items.append(Message(value=value, time_ns=time_ns, extra=rest or None))
            self._items += self._results(observation, place, [])
            return
        calls = self._calls(step, place)
        message = assistant(
            step.get("message"),
            [tool_call(c.call_id, c.tool, c.arguments) for c in calls],
            reasoning_content=step.get("reasoning_content"),
        )
        if is_copied:
            self._account.note("steps that a trajectory copies from another one are messages")
            self._account.records["copied step"] += 1
            self._items.append(Message(value=message, time_ns=time_ns, extra=rest or None))
            self._items += self._results(observation, place, [])
            return
        self._add_turn(step, place, message, time_ns=time_ns, rest=rest)
        results = self._results(observation, place, calls)
        self._items += calls
        self._items += results

    def _add_turn(
        self,
        step: JsonObject,
        place: Place,
        message: JsonObject,
        *,
        time_ns: int,
        rest: JsonObject | None,
    ) -> None:
        metrics = place.optional(dict, step.get("metrics"), "metrics", {})
        metrics_rest = self._account.take(metrics, "metrics", METRICS) if metrics else None
        if metrics_rest is not None:
            rest = {**(rest or {}), "metrics": metrics_rest}
        effort = step.get("reasoning_effort")
        parameters: JsonObject = {} if effort is None else {"reasoning_effort": effort}
        named = place.optional(str, step.get("model_name"), "model_name", "")
        if self._model and not named:
            # The agent's model was asked; the step does not say which one answered.
            parameters["model"] = self._model
        self._step += 1
        self._items.append(
            Turn(
                message=message,
                model=named,
                usage=usage_of_counts(
                    input_tokens=metrics.get("prompt_tokens"),
                    output_tokens=metrics.get("completion_tokens"),
                    cached=metrics.get("cached_tokens"),
                    cost=metrics.get("cost_usd"),
                ),
                parameters=parameters or None,
                end_ns=time_ns,
                is_model_call=step.get("llm_call_count") != 0,
                begins_anew=self._begins_anew,
                extra=rest or None,
            )
        )
        self._begins_anew = False

    def _calls(self, step: JsonObject, place: Place) -> list[Call]:
        calls = []
        for number, record in enumerate(dicts_of(place, step.get("tool_calls"), "tool_calls")):
            inner = place.at(f"tool_calls[{number}]")
            rest = self._account.take(record, "call", CALL)
            calls.append(
                Call(
                    tool=inner.expect(str, record.get("function_name"), "function_name"),
                    arguments=inner.optional(dict, record.get("arguments"), "arguments", {}),
                    call_id=inner.optional(str, record.get("tool_call_id"), "tool_call_id", ""),
                    extra=rest,
                )
            )
        return calls

    def _results(self, observation: JsonObject, place: Place, calls: list[Call]) -> list[Item]:
        """Give the calls of a step their results; return the messages with the results."""
        if not observation:
            return []
        results = dicts_of(place, observation.get("results"), "observation.results")
        has_ids = any(result.get("source_call_id") is not None for result in results)
        # Without ids, only equal numbers tell which result is of which call.
        by_place = not has_ids and len(results) == len(calls)
        waiting = list(calls)
        messages: list[Item] = []
        for record in results:
            result_rest = self._account.take(record, "result", RESULT)
            if result_rest is not None:
                self._note_callers(result_rest)
            if by_place and calls:
                result_rest = {**(result_rest or {}), **BY_POSITION}
            call_id = record.get("source_call_id")
            if call_id is not None and type(call_id) is not str:
                result_rest = {**(result_rest or {}), "source_call_id": call_id}
            call = next((c for c in waiting if by_place or c.call_id == call_id), None)
            content = record.get("content")
            if call is not None:
                waiting.remove(call)
                call.has_result = True
                call.result = content
                call.result_extra = result_rest
                messages.append(Message(value=tool_result(call.call_id, content, call.tool)))
                continue
            if calls:
                self._account.note("results that name no call stay messages of their own")
            value = tool_result(call_id if isinstance(call_id, str) else "", content)
            messages.append(Message(value=value, extra=result_rest))
        return messages

    def _note_callers(self, rest: JsonObject) -> None:
        references = rest.get("subagent_trajectory_ref")
        for reference in references if isinstance(references, list) else [references]:
            position = self._find(reference) if type(reference) is dict else None
            if position is not None:
                self.callers.setdefault(position, self._step)


def _placed(step: JsonObject, *, is_copied: bool) -> frozenset[str]:
    """Return the names of the fields of a step that have a place of their own."""
    if step.get("source") != "agent":
        return MESSAGE
    if is_copied:
        return COPIED
    return STEP if step.get("llm_call_count") != 0 else NO_MODEL


def tools_of(place: Place, definitions: Value) -> list[list[Value]] | None:
    """Return tools in the form of OpenAI's API as [name, schema, access, description]."""
    tools: list[list[Value]] = []
    for tool in dicts_of(place, definitions, "tool definitions"):
        inner = tool.get("function")
        function: JsonObject = inner if type(inner) is dict else tool
        schema = function.get("parameters", function.get("input_schema"))
        known = ("name", "parameters", "input_schema", "description")
        others = {key: value for key, value in function.items() if key not in known}
        if others and type(schema) is dict:
            schema = {**schema, "x-tool": others}
        name = place.optional(str, function.get("name"), "the name of a tool", "")
        tools.append([name, schema, "unknown", function.get("description")])
    return tools or None


def definitions_of(tools: list[list[Value]]) -> list[JsonObject]:
    """Return the definitions of tools: the inverse of `tools_of` for those of OpenAI's form.

    >>> definitions_of([["add", {"type": "object"}, "unknown", "Adds."]])[0]["function"]
    {'name': 'add', 'description': 'Adds.', 'parameters': {'type': 'object'}}
    """
    definitions: list[JsonObject] = []
    for name, schema, _, description in tools:
        function = {"name": name, "description": description, "parameters": schema}
        known = {key: value for key, value in function.items() if value is not None}
        definitions.append({"type": "function", "function": known})
    return definitions


FORMAT = Format(name="atif", title="ATIF", matches=_matches, read=_read)
