"""What MCP says of tools and their results, as JSON or as the objects of its SDK."""

from __future__ import annotations

from trajrec.protocols import Access
from trajrec.types import Value


def access_of_hints(read_only: Value, open_world: Value, *, has_hints: bool) -> Access:
    """Return the access of a tool by its annotations, which are hints of the server.

    Args:
        read_only: The hint `readOnlyHint`.
        open_world: The hint `openWorldHint`.
        has_hints: Whether there are annotations at all.
    """
    if read_only is True:
        return "read"
    if open_world is True:
        return "external"
    return "write" if has_hints else "unknown"


def told_error(content: Value) -> str:
    """Return the texts of the content of a result that reports an error.

    >>> told_error([{"type": "text", "text": "no such order"}, {"type": "image"}])
    'no such order'
    >>> told_error(None)
    'isError'
    """
    parts = content if isinstance(content, (list, tuple)) else [content]
    texts = [part if isinstance(part, str) else _field(part, "text") for part in parts]
    return "\n".join(text for text in texts if isinstance(text, str) and text) or "isError"


def _field(part: Value, name: str) -> Value:
    return part.get(name) if isinstance(part, dict) else getattr(part, name, None)
