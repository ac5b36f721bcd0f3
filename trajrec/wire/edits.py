"""Changes of the bodies of model calls: what another request, or another answer, would have been.

Each change is proved: the changed body is read again by its dialect, and must say what was wanted
and nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from trajrec.types import JsonObject, Value
from trajrec.wire.contents import AnswerContent, Dialect
from trajrec.wire.dialects.choose import dialect_of
from trajrec.wire.dialects.urls import model_in, with_model
from trajrec.wire.exchange import HttpRequest, header
from trajrec.wire.json_bodies import NOT_JSON, as_dict, as_list, dicts_in, read_json, to_bytes
from trajrec.wire.sse import split_events


class EditError(ValueError):
    """A body cannot be changed as wanted."""


class RequestEdit(NamedTuple):
    """A change of a request.

    Attributes:
        system: The system prompt; None leaves it as it is.
        message: The text of the last message of the user; None leaves it as it is.
        model: The name of the model; None leaves it as it is.
        parameters: Parameters such as `temperature`, by the provider's own names.
        tools: Name of a tool -> its new `description` and `schema`, or one of both.
    """

    system: str | None = None
    message: str | None = None
    model: str | None = None
    parameters: Mapping[str, Value] = {}
    tools: Mapping[str, Mapping[str, Value]] = {}


# Dialect -> the member that holds the parameters of the sampling; others have them at the top.
_PARAMETER_MEMBERS = {
    "gemini": "generationConfig",
    "bedrock": "inferenceConfig",
    "ollama": "options",
}


def edit_request(request: HttpRequest, edit: RequestEdit) -> HttpRequest:
    """Return a changed request: another body, and another address if that names the model.

    Args:
        request: The request, whose address tells the dialect.
        edit: The change.

    Raises:
        EditError: The dialect is unknown, the request has no such place, or it is signed.

    >>> body = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
    >>> url = "https://api.openai.com/v1/chat/completions"
    >>> edit_request(HttpRequest("POST", url, [], body), RequestEdit(model="n")).body
    b'{"model":"n","messages":[{"role":"user","content":"hi"}]}'
    """
    url = request.url
    dialect = dialect_of(url, request.body)
    value = read_json(request.body)
    if dialect.name in ("unknown", "completions", "embeddings") or type(value) is not dict:
        raise EditError(f"a request to {url} cannot be changed: its form is not known")
    if _is_signed(request):
        raise EditError(
            f"a request to {url} cannot be changed: it is signed for AWS with its body, and the "
            "server refuses another; give the program an API key of Bedrock in "
            "AWS_BEARER_TOKEN_BEDROCK in place of access keys"
        )
    in_body = edit
    if edit.model is not None and model_in(url) is not None:
        # Google's own names begin with the kind, which stands in the address already.
        edit = edit._replace(model=edit.model.removeprefix("models/"))
        url = with_model(url, str(edit.model))
        # Azure's clients say it in both places, and the address decides.
        in_body = edit if "model" in value else edit._replace(model=None)
    edit_value(value, in_body, dialect.name)
    edited = to_bytes(value)
    _prove_request(dialect, url, edited, edit)
    return request._replace(url=url, body=edited)


def _is_signed(request: HttpRequest) -> bool:
    """Return whether a request has a signature of AWS, which holds for its own bytes alone."""
    has_header = header(request.headers, "authorization").startswith("AWS4-")
    return has_header or "X-Amz-Signature=" in request.url


def edit_value(value: JsonObject, edit: RequestEdit, dialect: str = "chat") -> None:
    """Change a request in place.

    Args:
        value: The request as JSON values, or the keyword arguments of a client's function.
        edit: The change.
        dialect: The name of its dialect.

    Raises:
        EditError: It has no such place.
    """
    if edit.model is not None:
        if "model" not in value:
            raise EditError("the request names no model that could be changed")
        value["model"] = edit.model
    if edit.parameters:
        member = _PARAMETER_MEMBERS.get(dialect)
        if dialect == "gemini" and "generation_config" in value:
            member = "generation_config"
        holder = value if member is None else value.setdefault(member, {})
        as_dict(holder).update(edit.parameters)
    if edit.system is not None:
        _set_system(value, edit.system, dialect)
    if edit.message is not None:
        _set_message(value, edit.message, dialect)
    for name, changes in edit.tools.items():
        _set_tool(value, name, changes)


def _set_system(value: JsonObject, text: str, dialect: str) -> None:
    if dialect == "anthropic":
        value["system"] = text
    elif dialect == "gemini":
        name = "system_instruction" if "system_instruction" in value else "systemInstruction"
        value[name] = {"parts": [{"text": text}]}
    elif dialect == "bedrock":
        value["system"] = [{"text": text}]
    elif dialect == "responses":
        messages = as_list(value.get("input"))
        if "instructions" in value or not _replace_system(messages, text):
            value["instructions"] = text
    elif dialect == "ollama" and "prompt" in value:
        value["system"] = text
    elif type(value.get("messages")) is list:
        if not _replace_system(value["messages"], text):
            value["messages"].insert(0, {"role": "system", "content": text})
    else:
        raise EditError("the request has no messages, before which a system prompt could stand")


def _replace_system(messages: list[Value], text: str) -> bool:
    """Put a text in the place of all system messages; return whether there was one."""
    places = [
        place
        for place, message in enumerate(messages)
        if as_dict(message).get("role") in ("system", "developer")
    ]
    if not places:
        return False
    messages[places[0]] = {**messages[places[0]], "content": text}
    for place in reversed(places[1:]):
        del messages[place]
    return True


def _set_message(value: JsonObject, text: str, dialect: str) -> None:
    """Put a text in the place of the last message that only the user said."""
    if dialect == "responses" and type(value.get("input")) is str:
        value["input"] = text
        return
    if dialect == "ollama" and "prompt" in value:
        value["prompt"] = text
        return
    member = {"gemini": "contents", "responses": "input"}.get(dialect, "messages")
    for message in reversed(dicts_in(value.get(member))):
        if message.get("role") != "user" or _has_results(message):
            continue
        if dialect == "gemini":
            message["parts"] = [{"text": text}]
        else:
            message["content"] = [{"text": text}] if dialect == "bedrock" else text
        return
    raise EditError("the request has no message of a user that could be changed")


def _has_results(message: JsonObject) -> bool:
    blocks = dicts_in(message.get("content")) + dicts_in(message.get("parts"))
    results = ("tool_result", "toolResult", "functionResponse", "function_response")
    return any(b.get("type") in results or any(name in b for name in results) for b in blocks)


def _set_tool(value: JsonObject, name: str, changes: Mapping[str, Value]) -> None:
    """Change the description or the schema of one tool, wherever a dialect has it."""
    for tool in _tools_in(value):
        if tool.get("name") != name:
            continue
        if "description" in changes:
            tool["description"] = changes["description"]
        if "schema" in changes:
            members = ("parameters", "input_schema", "inputSchema", "parametersJsonSchema")
            member = next((member for member in members if member in tool), "parameters")
            schema = changes["schema"]
            tool[member] = {"json": schema} if member == "inputSchema" else schema
        return
    raise EditError(f"the request offers no tool {name!r}")


def _tools_in(value: JsonObject) -> Iterator[JsonObject]:
    config = as_dict(value.get("toolConfig"))
    for tool in dicts_in(value.get("tools")) + dicts_in(config.get("tools")):
        declared = tool.get("functionDeclarations", tool.get("function_declarations"))
        yield from dicts_in(declared)
        yield as_dict(tool.get("function") or tool.get("toolSpec") or tool)
    yield from dicts_in(value.get("functions"))


def _prove_request(dialect: Dialect, url: str, body: bytes, edit: RequestEdit) -> None:
    """Read the changed request again.

    Raises:
        EditError: It does not say what was wanted.
    """
    content = dialect.request(url, body)
    tools = {tool.name: tool for tool in content.tools}
    said = [message.text for message in map(dialect.message, content.messages)]
    holds = (
        (edit.system is None or content.system == edit.system)
        and (edit.message is None or edit.message in said)
        and (edit.model is None or content.model == edit.model)
        and all(content.parameters.get(name) == v for name, v in edit.parameters.items())
        and all(
            getattr(tools[name], field) == wanted
            for name, changes in edit.tools.items()
            for field, wanted in changes.items()
        )
    )
    if not holds:
        raise EditError(f"a request of the dialect {dialect.name} could not be changed as wanted")


class AnswerBody(NamedTuple):
    """The body of an answer.

    Attributes:
        status: Its HTTP status.
        content_type: Its content type.
        body: The bytes, decoded.
    """

    status: int
    content_type: str
    body: bytes


def edit_arguments(
    dialect: Dialect, answer: AnswerBody, number: int, arguments: JsonObject
) -> bytes:
    """Return the body of an answer that asks for a tool call with other arguments.

    Args:
        dialect: The dialect of the request.
        answer: The answer, streamed or whole.
        number: The number of the call in the answer.
        arguments: The arguments that it is to have.

    Raises:
        EditError: The answer has no such call, or its form cannot be changed.
    """
    before = dialect.answer(*answer)
    if not 0 <= number < len(before.calls):
        raise EditError(
            f"the answer asks for {len(before.calls)} calls, so it has no call {number}"
        )
    # The values count: the edit writes spaces of its own.
    wanted = [call._replace(text=None) for call in before.calls]
    wanted[number] = wanted[number]._replace(arguments=arguments, is_malformed=False)

    def is_proved(body: bytes) -> bool:
        after = dialect.answer(answer.status, answer.content_type, body)
        calls = [call._replace(text=None) for call in after.calls]
        return calls == wanted and _rest(after) == _rest(before)

    for body in _candidates(answer, before.calls[number].arguments, arguments):
        if is_proved(body):
            return body
    raise EditError(
        f"the arguments of call {number} could not be changed in a "
        f"{'streamed ' if before.is_streamed else ''}answer of the dialect {dialect.name}"
    )


def _rest(answer: AnswerContent) -> tuple[Value, ...]:
    return answer.text, answer.finish_reason, answer.response_id, answer.model, answer.usage


def _candidates(answer: AnswerBody, before: Value, after: JsonObject) -> Iterator[bytes]:
    """Yield bodies in which one place that holds the arguments holds others."""
    whole = read_json(answer.body)
    if whole is not NOT_JSON:
        for changed in edited_copies([whole], before, after):
            yield to_bytes(changed[0])
        return
    if "event-stream" in answer.content_type or answer.body.lstrip()[:5] in (b"data:", b"event"):
        events = split_events(answer.body)
        values = [read_json(event.data) for event in events]
        for changed in edited_copies(values, before, after):
            yield b"".join(
                _event(event.name, event.data if value is NOT_JSON else to_bytes(value))
                for event, value in zip(events, changed, strict=True)
            )
        return
    lines = [line for line in answer.body.split(b"\n") if line.strip()]
    values = [read_json(line) for line in lines]
    if NOT_JSON in values:
        return
    for changed in edited_copies(values, before, after):
        yield b"".join(to_bytes(value) + b"\n" for value in changed)


def _event(name: str, data: bytes) -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"".join(b"data: %b\n" % line for line in data.split(b"\n")) + b"\n"


# The members that hold arguments: whole as an object or text, or a piece of their text.
_WHOLE = ("arguments", "input", "args")
_PIECES = ("arguments", "partial_json", "delta", "input")

_Holder = tuple[JsonObject, str]


def edited_copies(
    values: Sequence[Value], before: Value, after: JsonObject
) -> Iterator[list[Value]]:
    """Yield candidates: copies of some values in which arguments are replaced by others.

    One place that holds them is replaced, and then the places behind it too, since some streams
    repeat a call. A candidate changes when the next one is asked for. The caller proves the right
    one.

    Args:
        values: Whole answers, or the events of a stream.
        before: The arguments.
        after: The arguments to put in their place.
    """
    n_groups = len(_groups(list(values), before))
    for number in range(n_groups):
        changed = copy.deepcopy(list(values))
        groups = _groups(changed, before)
        _replace(groups[number], after)
        # Some streams repeat the whole call behind its pieces, and at their end.
        yield changed
        for other in groups[number + 1 :]:
            _replace(other, after)
            yield changed


def _replace(group: list[_Holder], after: JsonObject) -> None:
    for place, (holder, name) in enumerate(group):
        if type(holder[name]) is dict:
            holder[name] = after
        else:
            holder[name] = to_bytes(after).decode() if place == 0 else ""


def _groups(values: list[Value], before: Value) -> list[list[_Holder]]:
    """Return the places that hold the arguments: alone, or as the pieces of a text."""
    groups: list[list[_Holder]] = []
    pieces: dict[Value, list[_Holder]] = {}
    for key, holder, name in _holders(values):
        value = holder[name]
        is_whole = value == before if type(value) is dict else _parsed(value) == before
        if name in _WHOLE and is_whole and not (type(value) is dict and not value):
            groups.append([(holder, name)])
        elif name in _PIECES and type(value) is str:
            pieces.setdefault(key, []).append((holder, name))
    for group in pieces.values():
        if _parsed("".join(holder[name] for holder, name in group)) == before:
            groups.append(group)
    return groups


def _parsed(text: Value) -> Value:
    if type(text) is not str:
        return NOT_JSON
    return {} if not text else read_json(text.encode("utf-8", "surrogatepass"))


def _holders(values: list[Value]) -> Iterator[tuple[Value, JsonObject, str]]:
    """Yield each member that may hold arguments, with a key that the pieces of one text share."""
    for value in values:
        yield from _holders_in(value, ())


def _holders_in(value: Value, key: tuple[Value, ...]) -> Iterator[tuple[Value, JsonObject, str]]:
    if type(value) is list:
        for item in value:
            yield from _holders_in(item, key)
    elif type(value) is dict:
        own = (*key, *(value.get(name) for name in ("index", "output_index", "item_id")))
        for name in list(value):
            if name in _WHOLE or name in _PIECES:
                yield (*own, name), value, name
            yield from _holders_in(value[name], (*own, name))
