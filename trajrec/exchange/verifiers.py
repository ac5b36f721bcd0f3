"""Results of verifiers (`traces.jsonl`): a line an episode, with a trace of each of its agents.

A trace is a graph in which each message stands once and names the one before it: the path to a
message is the request that it answers. So a conversation that was shortened, or that several agents
share the beginning of, has several ends.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping

from trajrec.exchange.account import Account
from trajrec.exchange.candidates import Candidate, Format, records_of
from trajrec.exchange.chat import tool_call, usage_of_counts
from trajrec.exchange.reading import (
    Place,
    dicts_of,
    number_or_none,
    parse_arguments,
    text_of,
    texts_by_key,
)
from trajrec.exchange.records import (
    Call,
    ImportedEpisode,
    Message,
    Note,
    Turn,
    Verdict,
)
from trajrec.exchange.verifiers_endings import ERROR, add_standing, faults_of, last_end
from trajrec.types import JsonObject, Value

EPISODE = frozenset(("traces",))
TRACE = frozenset(
    (
        "task",
        "agent",
        "tools",
        "nodes",
        "calls",
        "rewards",
        "metrics",
        "stop_condition",
        "errors",
    )
)
NODE = frozenset(("message", "sampled", "tools"))
CALL = frozenset(("model", "sampling", "finish_reason", "usage", "time", "error"))
TIME = frozenset(("start", "end"))
USAGE = frozenset(
    ("prompt_tokens", "completion_tokens", "cached_input_tokens", "reasoning_tokens", "cost")
)


def _matches(candidate: Candidate) -> bool:
    record = candidate.first_record
    return {"env", "task", "ok", "traces"} <= record.keys() or _is_trace(record)


def _is_trace(record: JsonObject) -> bool:
    return {"nodes", "calls", "agent", "task"} <= record.keys()


def _read(candidate: Candidate, account: Account) -> Iterator[ImportedEpisode]:
    place = Place(candidate.path)

    def read(position: str, record: JsonObject) -> Iterator[ImportedEpisode]:
        return _episodes(record, place.at(position), position, account)

    yield from account.whole_parts(records_of(candidate, account, "an episode"), read)


def _episodes(
    record: JsonObject, place: Place, position: str, account: Account
) -> Iterator[ImportedEpisode]:
    """Yield the episode of each trace of a line; a trace may stand alone in its line."""
    if _is_trace(record):
        yield _Trace(record, {}, place, position, account).episode()
        return
    whole = account.take(record, "episode", EPISODE) or {}
    traces = dicts_of(place, record.get("traces"), "traces")
    names = {text_of(texts_by_key(trace.get("agent")).get("name")) for trace in traces}
    for number, trace in enumerate(traces):
        inner = f"{position} traces[{number}]"
        episode = _Trace(trace, whole, place.at(inner), inner, account).episode()
        if len(names) > 1 and episode.metadata is not None:
            # A judge has another task than the agent that it judges.
            episode.task = f"{episode.task}/{episode.metadata.get('agent', '')}"
        yield episode
    if not traces:
        episode = ImportedEpisode(position=position, extra=whole)
        add_standing(episode, record, whole)
        episode.items += faults_of(record, place, account, is_retried=record.get("ok") is True)
        yield episode


class _Trace:
    """Reads the trace of one agent.

    Args:
        trace: The trace.
        whole: The fields of its episode.
        place: Its place, for errors.
        position: The same, unique in the file.
        account: Counts its fields.
    """

    def __init__(
        self, trace: JsonObject, whole: JsonObject, place: Place, position: str, account: Account
    ) -> None:
        self._trace = trace
        self._whole = whole
        self._place = place
        self._account = account
        self._position = position
        self._nodes = dicts_of(place, trace.get("nodes"), "nodes")
        self._parents = [self._number(n.get("parent"), i) for i, n in enumerate(self._nodes)]
        self._rest = [
            (account.take(node, "node", NODE) or {}) | _misfits(node, {"sampled": bool})
            for node in self._nodes
        ]
        self._messages = [self._message(number) for number in range(len(self._nodes))]
        self._results = self._results_by_call()
        self._is_told = [False] * len(self._nodes)

    def episode(self) -> ImportedEpisode:
        """Return the episode."""
        trace = self._trace
        rest = self._account.take(trace, "trace", TRACE) or {}
        rest |= {name: trace[name] for name in ("task", "agent") if trace.get(name) is not None}
        rest |= _misfits(trace, {"rewards": dict, "metrics": dict, "stop_condition": str})
        tools = dicts_of(self._place, trace.get("tools"), "tools")
        if not all(map(_is_plain_tool, tools)):
            rest["tools"] = tools
        agent = texts_by_key(trace.get("agent"))
        config = texts_by_key(agent.get("config"))
        task = texts_by_key(trace.get("task"))
        timing = texts_by_key(trace.get("timing"))
        extra: JsonObject = {"trace": rest}
        if self._whole:
            extra["episode"] = self._whole
        episode = ImportedEpisode(
            position=self._position,
            version=text_of(trace.get("version")),
            goal=texts_by_key(task.get("data")).get("prompt"),
            tools=[
                [
                    text_of(tool.get("name")),
                    tool.get("parameters"),
                    "unknown",
                    text_of(tool.get("description")),
                ]
                for tool in tools
            ]
            or None,
            interface={
                "base": {"model": config.get("model")},
                "sampling": config.get("sampling"),
                "scaffold": {"harness": config.get("harness"), "verifiers": trace.get("verifiers")},
                "env": self._whole.get("env"),
                "budget": {"timeout": config.get("timeout")},
            },
            start_ns=self._account.time(timing.get("start")),
            end_ns=last_end(timing, self._account),
            extra=extra,
        )
        add_standing(episode, trace, self._whole)
        episode.items += self._turns()
        episode.items += self._verdicts()
        is_ok = trace.get("ok") is True
        episode.items += faults_of(trace, self._place, self._account, is_retried=is_ok)
        return episode

    def _number(self, value: Value, before: int) -> int | None:
        """Return the number of a node that stands before another one; None if it names none."""
        if value is None:
            return None
        if type(value) is not int or not 0 <= value < before:
            raise self._place.error(f"nodes[{before}] must have an earlier parent, got {value!r}")
        return value

    def _message(self, number: int) -> JsonObject:
        """Return the message of a node in the form of chats."""
        place = self._place.at(f"nodes[{number}]")
        message = place.expect(dict, self._nodes[number].get("message"), "message")
        calls = dicts_of(place, message.get("tool_calls"), "tool_calls")
        if not calls:
            return message
        own = ("id", "name", "arguments")
        return message | {
            "tool_calls": [
                tool_call(text_of(c.get("id")), text_of(c.get("name")), c.get("arguments"))
                | {name: value for name, value in c.items() if name not in own}
                for c in calls
            ]
        }

    def _path(self, number: int | None) -> list[int]:
        """Return the numbers of the messages up to one."""
        found = []
        while number is not None:
            found.append(number)
            number = self._parents[number]
        return found[::-1]

    def _is_sampled(self, number: int) -> bool:
        return self._nodes[number].get("sampled") is True

    def _results_by_call(self) -> dict[tuple[int, str], deque[int]]:
        """Return the messages with results, by the answer before them and the id of the call."""
        found: dict[tuple[int, str], deque[int]] = defaultdict(deque)
        asked: list[int | None] = []
        for number, message in enumerate(self._messages):
            parent = self._parents[number]
            before = None if parent is None else asked[parent]
            asked.append(number if message.get("tool_calls") else before)
            if message.get("role") == "tool" and before is not None:
                found[before, text_of(message.get("tool_call_id"))].append(number)
        return found

    def _turns(self) -> Iterator[Turn | Call | Note | Message]:
        """Yield the model calls in their order, each with the calls of tools that it asks for."""
        calls = dicts_of(self._place, self._trace.get("calls"), "calls")
        called = {call.get("node") for call in calls}
        told: set[int] = set()
        for call in calls:
            node = call.get("node")
            if node is not None and (type(node) is not int or not 0 <= node < len(self._nodes)):
                raise self._place.error(f"a call must name one of the nodes, got {node!r}")
            yield from self._turn(call, node, is_first=node not in told)
            told.add(-1 if node is None else node)
        for number in range(len(self._nodes)):
            # The calls of an old trace may not name their nodes.
            if self._is_sampled(number) and number not in called:
                yield from self._turn({}, number, is_first=True)
        for number, message in enumerate(self._messages):
            if not self._is_told[number]:
                yield Message(value=message, extra=self._facts(number))

    def _turn(
        self, call: JsonObject, node: int | None, *, is_first: bool
    ) -> Iterator[Turn | Call | Note]:
        account = self._account
        extra = (account.take(call, "call", CALL) or {}) if call else {}
        extra |= _misfits(call, {"sampling": dict, "usage": dict, "error": dict, "time": dict})
        usage = texts_by_key(call.get("usage"))
        usage_rest = account.take(usage, "usage", USAGE) if usage else None
        if usage.get("cached_input_tokens"):
            # The tokens of the request have those of the cache, too.
            usage_rest = {**(usage_rest or {}), "prompt_tokens": usage.get("prompt_tokens")}
        if usage_rest:
            extra["usage"] = usage_rest
        error = texts_by_key(call.get("error"))
        if error:
            error_rest = account.take(error, "error", ERROR)
            extra |= {"error": error_rest} if error_rest else {}
            extra |= {"traceback": error["traceback"]} if error.get("traceback") else {}
        span = texts_by_key(call.get("time"))
        time_rest = account.take(span, "time", TIME) if span else None
        if time_rest:
            extra["time"] = time_rest
        path = [] if node is None else self._path(self._parents[node])
        new = [number for number in path if not self._is_told[number]]
        facts = {str(number): facts for number in new if (facts := self._facts(number))}
        if facts:
            extra["nodes of the request"] = facts
        for number in new:
            self._is_told[number] = True
        yield Turn(
            message=None if node is None else self._messages[node],
            model=text_of(call.get("model")),
            usage=_usage(usage),
            finish_reason=text_of(call.get("finish_reason")),
            parameters=self._parameters(call, path),
            request=[self._messages[number] for number in path],
            start_ns=account.time(span.get("start") or None),
            end_ns=account.time(span.get("end") or None),
            error=text_of(error.get("message")) or ("it failed" if error else ""),
            error_type=text_of(error.get("type")),
            extra=extra or None,
        )
        if node is None:
            return
        self._is_told[node] = True
        # One message stands once, also if a model has said it twice.
        if is_first:
            facts = self._facts(node)
            if facts:
                yield Note(values=facts)
            yield from self._calls(node)

    def _parameters(self, call: JsonObject, path: list[int]) -> JsonObject:
        """Return the parameters of a call, with the tools that the first message of its path offers."""
        sampling = texts_by_key(call.get("sampling"))
        parameters = {name: value for name, value in sampling.items() if value is not None}
        tools = self._nodes[path[0]].get("tools") if path else None
        return parameters | {"tools": tools} if tools else parameters

    def _calls(self, node: int) -> Iterator[Call]:
        """Yield the calls of tools that an answer asks for, with their results."""
        place = self._place.at(f"nodes[{node}]")
        asked = texts_by_key(self._nodes[node].get("message")).get("tool_calls")
        for record in dicts_of(place, asked, "tool_calls"):
            arguments, invalid = parse_arguments(record.get("arguments"))
            call_id = text_of(record.get("id"))
            call = Call(
                tool=text_of(record.get("name")),
                arguments=arguments,
                call_id=call_id,
                invalid=invalid,
            )
            results = self._results.get((node, call_id))
            if results:
                call.has_result = True
                call.result = self._messages[results.popleft()].get("content")
            yield call

    def _facts(self, number: int) -> JsonObject:
        """Return the facts of a node beside its message: tokens, log-probabilities, parents, time."""
        return {name: value for name, value in self._rest[number].items() if value not in ([], {})}

    def _verdicts(self) -> Iterator[Verdict]:
        """Yield the rewards, and the metrics, which count for nothing."""
        rewards = texts_by_key(self._trace.get("rewards"))
        for name, reward in rewards.items():
            fields = texts_by_key(reward)
            score = number_or_none(fields.get("score"))
            others = {k: v for k, v in fields.items() if k != "score" or score is None}
            if reward is not None and not fields:
                others = {"reward": reward}
            yield Verdict(
                check_id=name,
                family="reward",
                status="not_evaluated" if score is None else "ok",
                score=score,
                is_primary=len(rewards) == 1,
                extra=others or None,
            )
        for name, value in texts_by_key(self._trace.get("metrics")).items():
            score = number_or_none(value)
            yield Verdict(
                check_id=f"metric {name}",
                family="metric",
                status="not_evaluated" if score is None else "ok",
                score=score,
                extra={"metric": value} if score is None and value is not None else None,
            )


def _misfits(record: JsonObject, types: Mapping[str, type]) -> JsonObject:
    """Return the fields of a record that are of another type than the one that has a place."""
    return {
        name: record[name]
        for name, expected in types.items()
        if record.get(name) is not None and type(record[name]) is not expected
    }


def _is_plain_tool(tool: JsonObject) -> bool:
    """Return whether a name, a description and a schema are all that a tool has."""
    types = {"name": str, "description": str, "parameters": dict, "type": str}
    return (
        tool.get("type") == "function" and tool.keys() <= types.keys() and not _misfits(tool, types)
    )


def _usage(usage: JsonObject) -> JsonObject | None:
    """Return counts of tokens; those of verifiers have the cached ones apart from the prompt."""
    prompt = usage.get("prompt_tokens")
    cached = usage.get("cached_input_tokens")
    if type(prompt) is int and type(cached) is int:
        prompt += cached
    return usage_of_counts(
        input_tokens=prompt,
        output_tokens=usage.get("completion_tokens"),
        cached=cached,
        reasoning=usage.get("reasoning_tokens"),
        cost=usage.get("cost"),
    )


FORMAT = Format(name="verifiers", title="results of verifiers", matches=_matches, read=_read)
