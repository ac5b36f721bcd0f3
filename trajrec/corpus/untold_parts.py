"""The parts of a message that are no text, call or result of it: images, files, reasoning."""

from __future__ import annotations

from trajrec.types import JsonObject, Value
from trajrec.wire.contents import ToolResult
from trajrec.wire.dialects.reading import has_media
from trajrec.wire.dialects.responses import RESULTS, item_call
from trajrec.wire.json_bodies import as_dict, dicts_in

_TOLD_TYPES = frozenset(
    ("text", "input_text", "output_text", "tool_use", "tool_result", "message")
) | frozenset(RESULTS)

# Parts of Gemini and of Bedrock have no type: each is named by its member.
_TOLD_MEMBERS = frozenset(
    (
        "cachePoint",
        "functionCall",
        "functionResponse",
        "function_call",
        "function_response",
        "json",
        "text",
        "toolResult",
        "toolUse",
    )
)

# Members of a message by which servers tell its images and its reasoning beside its content.
_UNTOLD_FIELDS = (
    "audio",
    "images",
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "thinking",
)


def untold_parts(value: Value) -> list[JsonObject]:
    """Return the parts of a message that are no text, call or result of it.

    Args:
        value: The message as its dialect writes it, or the list of an answer's parts.

    >>> untold_parts({"content": [{"text": "a"}, {"image": {"format": "png"}}]})
    [{'image': {'format': 'png'}}]
    """
    fields = as_dict(value)
    if type(value) is dict and "role" not in fields and "type" in fields:
        # An item of the API of responses is a message of its own.
        parts = [fields]
    elif type(value) is list:
        parts = dicts_in(value)
    else:
        given = fields.get("parts")
        # A content that is no list is a value of a tool.
        parts = [given] if type(given) is dict else dicts_in(given or fields.get("content"))
    if fields.get("role") in ("tool", "function"):
        # Objects without a type are the values of a tool.
        parts = [part for part in parts if "type" in part]
    return [part for part in parts if not _is_told(part)]


def has_untold(value: Value) -> bool:
    """Return whether a message has images, files or reasoning, which are no text of it.

    >>> has_untold({"role": "assistant", "content": "4", "reasoning_content": "2 + 2"})
    True
    """
    fields = as_dict(value)
    return any(fields.get(name) for name in _UNTOLD_FIELDS) or bool(untold_parts(value))


def has_untold_result(result: ToolResult) -> bool:
    """Return whether the text of a tool's result leaves out images or files of it.

    >>> image = [{"type": "image", "source": {}}]
    >>> has_untold_result(ToolResult("c", None, "", image, None, 0))
    True
    """
    content = result.content
    if result.is_partial or has_media(content):
        return True
    # Other parts are left out beside texts alone: without a text, the text is their JSON.
    return 0 < len(untold_parts({"content": content})) < len(dicts_in(content))


def _is_told(part: JsonObject) -> bool:
    kind = part.get("type")
    if kind is not None:
        is_known = type(kind) is str and kind in _TOLD_TYPES
        return is_known or item_call(part, 0) is not None
    # A thought of Gemini is a text that says what it is.
    return not part or not (_TOLD_MEMBERS.isdisjoint(part) or part.get("thought") is True)
