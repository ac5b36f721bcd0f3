"""Traces in OTLP, as JSON or protobuf, of OpenTelemetry's conventions for generative models or of OpenInference.

Spans come children first, and over several exports; a file may hold several traces. Each root is an
episode. An agent that another one calls, and that calls models itself, is an episode inside of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from typing import Literal

from trajrec.exchange import otlp_genai, otlp_openinference
from trajrec.exchange.account import Account
from trajrec.exchange.candidates import Candidate, Format, records_of
from trajrec.exchange.otlp_protobuf import is_protobuf, read_protobuf
from trajrec.exchange.otlp_spans import Span, spans_of, time_or_none
from trajrec.exchange.reading import Place, number_or_none
from trajrec.exchange.records import Ending, ImportedEpisode, Note, Verdict

EVALUATION = "gen_ai.evaluation.result"
ENDING = "trajrec.ending"
"""The attribute of an agent that our own exports made of an episode."""
ORDER = "trajrec.order"
"""The number of a span in our own exports: times may be unknown."""
_ENDINGS: dict[str, Ending] = {"terminated": "terminated", "truncated": "truncated"}
_STATUSES: dict[str, Literal["error", "not_evaluated"]] = {
    "error": "error",
    "not_evaluated": "not_evaluated",
}
_OTHER_WORDS = {
    "traceloop.span.kind": "OpenLLMetry",
    "llm.request.type": "OpenLLMetry",
    "ai.operationId": "Vercel's AI SDK",
    "mlflow.spanType": "MLflow",
    "langfuse.observation.type": "Langfuse",
    "langsmith.span.kind": "LangSmith",
    "gen_ai.request.model": f"gen_ai without {otlp_genai.OPERATION}",
}
"""An attribute -> who writes it: spans that have it, and no kind that is known, are not read."""
_PASSED = {"pass": True, "passed": True, "true": True, "fail": False, "failed": False}


def kind_of(span: Span) -> str:
    """Return "model", "tool" or "agent"; "" for any other span."""
    operation = span.text(otlp_genai.OPERATION)
    if operation:
        return otlp_genai.KINDS.get(operation, "")
    return otlp_openinference.KINDS.get(span.text(otlp_openinference.KIND), "")


def _matches(candidate: Candidate) -> bool:
    return "resourceSpans" in candidate.first_record or is_protobuf(candidate)


def _read(candidate: Candidate, account: Account) -> Iterator[ImportedEpisode]:
    place = Place(candidate.path)
    spans: list[Span] = []
    if not candidate.is_json:
        spans += spans_of(read_protobuf(candidate.path), place, account)
    elif candidate.fields:
        spans += spans_of(candidate.fields, place, account)
    else:
        for position, export in records_of(candidate, account, "an export"):
            with account.attempt(position):
                spans += list(spans_of(export, Place(candidate.path, position), account))
    by_trace: dict[str, list[Span]] = defaultdict(list)
    for span in _once(spans, account):
        by_trace[span.trace_id].append(span)
    for trace_id, of_trace in by_trace.items():
        unread = sorted({words for span in of_trace if (words := _unread_words(span))})
        if not any(map(kind_of, of_trace)):
            # Such as the requests of a service: an episode of it would count as one without steps.
            reason = f"; attributes of {', '.join(unread)} are not read" if unread else ""
            account.drop(
                f"a span of a trace without a model call, tool call or agent{reason}", len(of_trace)
            )
            continue
        for words in unread:
            account.note(
                f"spans with attributes of {words} are kept as notes, and not read as calls"
            )
        yield from _Trace(trace_id, of_trace, place, account).episodes()


def _unread_words(span: Span) -> str:
    """Return whose words a span of no known kind is in, "" if nobody's who describes agents."""
    if kind_of(span) or span.text(otlp_genai.OPERATION) or span.text(otlp_openinference.KIND):
        return ""
    return next((words for name, words in _OTHER_WORDS.items() if name in span.attributes), "")


def _once(spans: list[Span], account: Account) -> Iterator[Span]:
    """Yield spans without those that repeat one: an export that had no answer is made again."""
    by_id: dict[tuple[str, str], Span] = {}
    for span in spans:
        first = by_id.setdefault((span.trace_id, span.span_id), span)
        if first is span:
            yield span
        elif first == span:
            account.drop("a span repeats an earlier one")
        else:
            account.drop(f"span {span.span_id} differs from an earlier one of its id, which stands")


class _Trace:
    def __init__(self, trace_id: str, spans: list[Span], place: Place, account: Account) -> None:
        self._trace_id = trace_id
        self._place = place
        self._account = account
        self._spans = sorted(spans, key=_order(spans))
        self._by_id = {span.span_id: span for span in self._spans}
        self._owners = {id(span): self._owner(span) for span in self._spans}

    def _ancestors(self, span: Span) -> Iterator[Span]:
        seen = {span.span_id}
        parent = self._by_id.get(span.parent_id)
        while parent is not None and parent.span_id not in seen:
            seen.add(parent.span_id)
            yield parent
            parent = self._by_id.get(parent.parent_id)

    def _root(self, span: Span) -> Span:
        root = span
        for ancestor in self._ancestors(span):
            root = ancestor
        return root

    def _agent(self, span: Span) -> Span | None:
        """Return the innermost agent around a span."""
        return next((a for a in self._ancestors(span) if kind_of(a) == "agent"), None)

    def _calls_models(self, agent: Span) -> bool:
        return any(kind_of(span) == "model" and self._agent(span) is agent for span in self._spans)

    def _owner(self, span: Span) -> Span:
        """Return the agent or root whose episode a span belongs to."""
        for candidate in (span, *self._ancestors(span)):
            if kind_of(candidate) == "agent" and candidate.text(ENDING):
                return candidate
            if kind_of(candidate) == "agent" and self._calls_models(candidate):
                outer = [a for a in self._ancestors(candidate) if kind_of(a) == "agent"]
                if any(map(self._calls_models, outer)):
                    return candidate
        return self._root(span)

    def episodes(self) -> Iterator[ImportedEpisode]:
        """Yield the episodes of the trace, each behind its caller."""
        groups: dict[str, list[Span]] = defaultdict(list)
        for span in self._spans:
            groups[self._owners[id(span)].span_id].append(span)
        steps: dict[str, int] = {}
        names = {owner: f"trace {self._trace_id} span {owner}" for owner in groups}
        # Callers begin before the agents that they call, and are written first.
        for owner_id in self._callers_first(groups):
            spans = groups[owner_id]
            owner = self._by_id[owner_id]
            episode = self._episode(owner, spans, names[owner_id], steps)
            caller = self._caller(owner)
            if caller is not None and caller is not owner and caller.span_id in names:
                episode.caller = names[caller.span_id]
                episode.caller_step = max(
                    (
                        steps.get(span.span_id, -1)
                        for span in groups[caller.span_id]
                        if span.start_ns <= owner.start_ns
                    ),
                    default=-1,
                )
            yield episode

    def _callers_first(self, owner_ids: Collection[str]) -> list[str]:
        """Return owners by time, each behind its callers: of one time, children come first."""
        ordered: dict[str, None] = {}
        for owner_id in owner_ids:
            chain: dict[str, None] = {}
            owner: Span | None = self._by_id[owner_id]
            # The ids of a damaged trace may go round, or lead to a span that owns nothing.
            while (
                owner is not None
                and owner.span_id in owner_ids
                and owner.span_id not in ordered
                and owner.span_id not in chain
            ):
                chain[owner.span_id] = None
                owner = self._caller(owner)
            ordered |= dict.fromkeys(reversed(chain))
        return list(ordered)

    def _caller(self, owner: Span) -> Span | None:
        parent = self._by_id.get(owner.parent_id)
        return None if parent is None else self._owners[id(parent)]

    def _episode(
        self, owner: Span, spans: list[Span], position: str, steps: dict[str, int]
    ) -> ImportedEpisode:
        is_root = owner.parent_id == ""
        if not is_root and owner.parent_id not in self._by_id:
            self._account.note("a trace lacks its root: it is not whole, or another file has it")
        episode = ImportedEpisode(
            position=position,
            start_ns=owner.start_ns,
            end_ns=owner.end_ns,
            ending="error" if owner.error is not None else "unknown",
            extra={"trace": self._trace_id, "where": owner.where},
        )
        conversation = owner.attributes.get("gen_ai.conversation.id")
        name = owner.text("gen_ai.agent.name") or owner.text("agent.name") or owner.name
        episode.interface = {"scaffold": {"agent": name}}
        if type(conversation) is str:
            episode.metadata = {"run": conversation}
        if owner.error is None and owner.end_ns and is_root:
            episode.ending = "terminated"
        # Of our own exports.
        episode.task = owner.text("trajrec.task")
        episode.stop_reason = owner.text("trajrec.stop_reason")
        ending = owner.text(ENDING)
        if ending and episode.ending != "error":
            episode.ending = _ENDINGS.get(ending, "unknown")
        step = -1
        for span in spans:
            step += self._add(span, episode, owner)
            steps[span.span_id] = step
        return episode

    def _add(self, span: Span, episode: ImportedEpisode, owner: Span) -> bool:
        """Add a span to its episode; return whether it begins a step."""
        kind = kind_of(span)
        begins_step = False
        words = otlp_genai if span.text(otlp_genai.OPERATION) else otlp_openinference
        if kind == "model":
            turn = words.turn_of(span, self._place)
            begins_step = not turn.attempt
            episode.items.append(turn)
        elif kind == "tool":
            episode.items.append(words.call_of(span, self._place))
        else:
            facts = span.leftovers()
            facts["times"] = [span.start_ns, span.end_ns]
            if span.error is not None:
                facts["error"] = span.error
            episode.items.append(Note(values={"span": facts}))
        if span.where != owner.where:
            episode.items.append(Note(values={"span": span.span_id, "where": span.where}))
        for event in span.events:
            if event.get("name") == EVALUATION:
                episode.items.append(_verdict(event, episode))
        return begins_step


def _order(spans: list[Span]) -> Callable[[Span], int]:
    """Return the key that spans are sorted by: exports come in the order in which spans end."""
    numbers = [span.attributes.get(ORDER) for span in spans]
    if all(type(number) is int for number in numbers):
        return lambda span: int(span.attributes[ORDER])
    return lambda span: span.start_ns


def _verdict(event: dict[str, object], episode: ImportedEpisode) -> Verdict:
    attributes = event["attributes"]
    assert isinstance(attributes, dict)
    label = attributes.get("gen_ai.evaluation.score.label")
    name = attributes.get("gen_ai.evaluation.name")
    is_first = not any(isinstance(item, Verdict) for item in episode.items)
    is_primary = attributes.get("trajrec.is_primary")
    status = attributes.get("trajrec.status")
    return Verdict(
        check_id=name if type(name) is str else "evaluation",
        verdict=_PASSED.get(label.lower()) if type(label) is str else None,
        score=number_or_none(attributes.get("gen_ai.evaluation.score.value")),
        evidence=attributes,
        time_ns=time_or_none(event.get("timeUnixNano")) or 0,
        is_primary=is_primary if type(is_primary) is bool else is_first,
        status=_STATUSES.get(status, "ok") if type(status) is str else "ok",
    )


FORMAT = Format(
    name="otlp",
    title="traces in OTLP",
    matches=_matches,
    read=_read,
)
