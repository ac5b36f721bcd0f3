"""Writes agents' episodes as ATIF 1.7: a document for each, with the agents that it has begun.

Facts that the format has no place for stand under `extra.trajrec`: checks, failures, changes of the
state, attempts, times of calls. An episode that was imported from ATIF becomes the document that it
was, though of version 1.7.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from trajrec.corpus.call_contents import CallContent, content_of, cost_of, plain
from trajrec.corpus.episode import Episode
from trajrec.corpus.model_calls import ModelCall
from trajrec.exchange.account import Account
from trajrec.exchange.atif import definitions_of
from trajrec.exchange.atif_fields import add_ours, restore
from trajrec.exchange.atif_results import Results
from trajrec.exchange.chat import json_text
from trajrec.exchange.conversation import LoggedMessage, LoggedTurn, conversation_of, leftovers
from trajrec.exchange.episode_facts import facts_of_episode, facts_of_events, facts_of_step
from trajrec.exchange.times import text_of_time
from trajrec.types import JsonObject, Value
from trajrec.wire.json_bodies import as_dict
from trajrec.wire.sampled_tokens import sampled_tokens

VERSION = "ATIF-v1.7"

_DOCUMENT = ("session_id", "trajectory_id", "notes", "continued_trajectory_ref", "extra")
_AGENT = ("tool_definitions", "extra")
_STEP = (
    "timestamp",
    "model_name",
    "reasoning_effort",
    "llm_call_count",
    "is_copied_context",
    "extra",
)
_MESSAGE = ("timestamp", "is_copied_context", "extra")
_METRICS = ("prompt_token_ids", "completion_token_ids", "logprobs", "extra")
_UNKNOWN = "unknown"


def atif_document(
    episode: Episode, account: Account, subagents: Sequence[tuple[Episode, JsonObject]] = ()
) -> JsonObject:
    """Return the document of an agent's episode.

    Args:
        episode: The episode.
        account: Counts what is written, and what is not.
        subagents: The episodes that it has begun, with their documents.

    Raises:
        LogCorruptError: The log has lost a value.
    """
    return _Writer(episode, account).document(subagents)


class _Writer:
    """Writes one episode."""

    def __init__(self, episode: Episode, account: Account) -> None:
        self._episode = episode
        self._account = account
        source = episode.source
        self._format = "" if source is None else str(source.get("format"))
        self._steps: list[JsonObject] = []
        # The results of the last step so far.
        self._results = Results(account)
        self._by_step: dict[int, JsonObject] = {}
        self._events: dict[int, list[object]] = defaultdict(list)
        for event in episode.agent_events:
            self._events[getattr(event, "step", -1)].append(event)

    def document(self, subagents: Sequence[tuple[Episode, JsonObject]]) -> JsonObject:
        """Return the document."""
        for item in conversation_of(self._episode):
            if isinstance(item, LoggedTurn):
                self._add_turn(item)
            elif item.value.get("role") == "tool" and self._steps:
                self._results.add_message(item)
            else:
                self._add_message(item)
        self._results.close()
        document: JsonObject = {"schema_version": VERSION, "agent": {}, "steps": self._steps}
        ours = facts_of_episode(self._episode, self._account, is_atif=self._format == "atif")
        # Of the time before the first step.
        ours |= facts_of_events(self._episode, self._events[-1])
        self._restore_root(document, ours)
        if self._episode.end is not None and self._episode.end.reported_data is not None:
            self._add_totals(document, ours)
        if subagents:
            self._embed(document, subagents)
        self._account.keep("episode")
        add_ours(document, ours)
        return document

    def _restore_root(self, document: JsonObject, ours: JsonObject) -> None:
        """Add the fields of the document, and those of the agent."""
        task = self._episode.task_start
        left = dict((task and leftovers(self._episode, task.extra_data)) or {})
        if self._format in ("atif", "harbor"):
            first = left.pop("part 1", None)
            if first is not None or any(name.startswith("part ") for name in left):
                # The parts are one document now, which nothing continues.
                parts = {name: left.pop(name) for name in list(left) if name.startswith("part ")}
                left |= as_dict(first)
                parts["part 1"] = {
                    name: left.pop(name)
                    for name in ("continued_trajectory_ref", "final_metrics")
                    if name in left
                }
                ours["parts"] = parts
        else:
            document["session_id"] = self._episode.id
            document["trajectory_id"] = self._episode.id
            left = {"extra": {"source": left}} if left else {}
        agent_left = as_dict(left.pop("agent", None))
        document["agent"] = self._agent(agent_left, ours)
        restore(document, left, _DOCUMENT, ours)

    def _agent(self, left: JsonObject, ours: JsonObject) -> JsonObject:
        task = self._episode.task_start
        fields = as_dict(None if task is None else self._episode.value(task.interface_data))
        scaffold = as_dict(fields.get("scaffold"))
        name = scaffold.get("name", scaffold.get("agent", scaffold.get("code")))
        version = left.pop("version", scaffold.get("version"))
        agent: JsonObject = {
            "name": name if isinstance(name, str) else _UNKNOWN,
            "version": version if isinstance(version, str) else _UNKNOWN,
        }
        model = left.pop("model_name", as_dict(fields.get("base")).get("model"))
        if isinstance(model, str):
            agent["model_name"] = model
        tools = None if task is None else self._episode.value(task.tools_data)
        if tools:
            agent["tool_definitions"] = definitions_of(plain(tools))
        facts: JsonObject = {}
        restore(agent, left, _AGENT, facts)
        add_ours(agent, facts)
        return agent

    def _add_totals(self, document: JsonObject, ours: JsonObject) -> None:
        assert self._episode.end is not None
        totals = self._episode.value(self._episode.end.reported_data)
        if self._format in ("atif", "harbor"):
            document["final_metrics"] = totals
        else:
            ours["reported"] = plain(totals)

    def _embed(self, document: JsonObject, subagents: Sequence[tuple[Episode, JsonObject]]) -> None:
        """Add the documents of other agents, each with an id that the format demands."""
        named = json_text([step.get("observation") for step in self._steps])
        ids: set[str] = set()
        for subagent, inner in subagents:
            name = inner.get("trajectory_id")
            if not isinstance(name, str) or name in ids:
                inner["trajectory_id"] = subagent.id
            ids.add(inner["trajectory_id"])
            task = subagent.task_start
            step = self._by_step.get(-1 if task is None else task.caller_step or 0)
            if step is not None and json_text(inner["trajectory_id"]) not in named:
                reference = [{"trajectory_id": inner["trajectory_id"]}]
                observation = step.setdefault("observation", {"results": []})
                observation["results"].append({"subagent_trajectory_ref": reference})
        document["subagent_trajectories"] = [inner for _, inner in subagents]

    def _append(self, step: JsonObject) -> None:
        self._results.close()
        self._steps.append({"step_id": len(self._steps) + 1, **step})
        self._account.keep("step")

    def _add_message(self, item: LoggedMessage) -> None:
        role = item.value.get("role")
        source = {"assistant": "agent", "system": "system", "developer": "system"}.get(
            str(role), "user"
        )
        step: JsonObject = {"source": source, "message": _content(item.value.get("content"))}
        if item.time_ns:
            step["timestamp"] = text_of_time(item.time_ns)
        ours: JsonObject = {}
        names: tuple[str, ...] = _MESSAGE
        if source == "agent":
            # An example in the prompt, or a step of another trajectory.
            step["is_copied_context"] = True
            if item.value.get("reasoning_content") is not None:
                step["reasoning_content"] = item.value["reasoning_content"]
            names = (*_STEP, "tool_calls", "metrics")
        elif role not in ("user", "system"):
            ours["role"] = role
        if item.original is not None:
            ours["message"] = plain(item.original)
        restore(step, item.extra or {}, names, ours)
        add_ours(step, ours)
        self._append(step)
        self._results = Results(self._account, self._steps[-1])

    def _add_turn(self, turn: LoggedTurn) -> None:
        message = turn.message or {}
        step: JsonObject = {"source": "agent", "message": _content(message.get("content"))}
        ours = facts_of_step(self._episode, turn, self._events[turn.step], self._account)
        call = turn.answered
        left = dict(turn.extra or {})
        if call is None:
            step["llm_call_count"] = 0
            if message.get("reasoning_content") is not None:
                ours["reasoning_content"] = message["reasoning_content"]
            restore(step, left, (*_STEP, "metrics"), ours)
        else:
            self._add_model_call(step, turn, call, ours)
            metrics = _metrics(call, as_dict(left.pop("metrics", None)), ours)
            if metrics:
                step["metrics"] = metrics
            restore(step, left, _STEP, ours)
        if turn.original is not None:
            ours["answer"] = plain(turn.original)
        self._by_step[turn.step] = step
        add_ours(step, ours)
        self._append(step)
        self._by_step[turn.step] = self._steps[-1]
        self._results = Results(self._account, self._steps[-1])
        self._results.add_calls(turn, self._episode)

    def _add_model_call(
        self, step: JsonObject, turn: LoggedTurn, call: ModelCall, ours: JsonObject
    ) -> None:
        if call.end is not None and call.end.time_ns:
            step["timestamp"] = text_of_time(call.end.time_ns)
        message = turn.message or {}
        if message.get("reasoning_content") is not None:
            step["reasoning_content"] = message["reasoning_content"]
        if self._format in ("atif", "harbor"):
            model = as_dict(call.answer).get("model")
        else:
            answer = content_of(call).answer
            model = (answer and answer.model) or call.request.get("model")
            if call.wire is not None:
                model = model or call.wire.request.model
            if len(turn.model_calls) > 1:
                step["llm_call_count"] = len(turn.model_calls)
        if isinstance(model, str):
            step["model_name"] = model
        effort = call.request.get("reasoning_effort")
        if isinstance(effort, (str, float, int)):
            step["reasoning_effort"] = effort
        self._account.keep("model call")


def _metrics(call: ModelCall, left: JsonObject, ours: JsonObject) -> JsonObject:
    """Return the tokens and the cost of a model call."""
    content = content_of(call)
    answer = content.answer
    # Of an object of a client, and of a stream that was put together, too.
    usage = as_dict(as_dict(None if answer is None else plain(answer.value)).get("usage"))
    counted = None if answer is None else answer.usage
    details = as_dict(usage.get("prompt_tokens_details"))
    values = {
        "prompt_tokens": usage.get("prompt_tokens", counted and counted.input),
        "completion_tokens": usage.get("completion_tokens", counted and counted.output),
        "cached_tokens": details.get("cached_tokens", counted and counted.cached),
        "cost_usd": usage.get("cost", cost_of(usage)),
        **_sampled(content),
    }
    metrics = {name: value for name, value in values.items() if value is not None}
    restore(metrics, left, _METRICS, ours)
    if counted is not None and counted.reasoning is not None:
        metrics["extra"] = {**as_dict(metrics.get("extra")), "reasoning_tokens": counted.reasoning}
    return metrics


def _sampled(content: CallContent) -> JsonObject:
    """Return the tokens of an answer, if the server told all of them."""
    answer = content.answer
    if answer is None:
        return {}
    told = sampled_tokens(answer.value, content.choice, answer.usage.output)
    if told is None or told.is_whole is False:
        return {}
    logprobs = None if told.logprobs is None or None in told.logprobs else told.logprobs
    return {
        "prompt_token_ids": told.prompt_ids,
        "completion_token_ids": told.ids,
        "logprobs": logprobs,
    }


def _content(value: Value) -> Value:
    """Return a content as the format takes it: a text, or a list of parts."""
    if value is None:
        return ""
    return value if isinstance(value, (str, list)) else json_text(plain(value))
