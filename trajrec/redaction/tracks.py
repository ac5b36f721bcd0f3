"""Texts that are put together from the pieces of a stream, and searched while they grow."""

from __future__ import annotations

from trajrec.redaction.digests import is_mark
from trajrec.redaction.nested import Edit, may_be_json
from trajrec.redaction.redactor import Redactor

WINDOW_CHARS = 512
"""Characters at the end of a text that may be the beginning of a secret, with the words beside it
that tell that it is one."""

CONTEXT_CHARS = 512
"""Characters before those that are searched with them."""

MAX_HELD_CHARS = 16_000
"""Characters that are held back at most: of a private key, of a run without a space, or of a JSON
document with the name of a secret."""

_KEY_BEGIN = "-----BEGIN"
_KEY_END = "-----END"


class Track:
    """A text that grows.

    Args:
        redactor: Finds the secrets.

    Attributes:
        n_done: Number of characters in which all secrets are found.
        has_grown: Whether it has grown since the last search.
    """

    def __init__(self, redactor: Redactor) -> None:
        self.n_done = 0
        self.has_grown = False
        self._redactor = redactor
        self._text = ""
        # The edits of the characters that are not taken yet.
        self._edits: list[Edit] = []

    def add(self, text: str) -> int:
        """Add a text; return its position."""
        start = len(self._text)
        self._text += text
        self.has_grown = True
        return start

    def is_only(self, text: str) -> bool:
        """Return whether nothing else than this was added, and that once."""
        return self._text == text

    def search(self, *, is_over: bool) -> int:
        """Look for secrets that are complete; return their number.

        Args:
            is_over: Whether the text has ended, so that nothing need be held back.
        """
        self.has_grown = False
        begin = max(0, self.n_done - CONTEXT_CHARS)
        is_json = may_be_json(self._text)
        if is_over and is_json:
            edits = self._document_edits(begin)
            n_done = len(self._text)
        else:
            edits, has_name = self._plain_edits(begin)
            n_done = len(self._text) if is_over else self._searched(edits, is_json and has_name)
        new = [
            Edit(max(edit.start, self.n_done), edit.end, edit.text)
            for edit in edits
            if self.n_done < edit.end <= n_done
        ]
        self._edits += new
        self.n_done = n_done
        return len(new)

    def take(self, start: int, size: int) -> str | None:
        """Return a part of the text without secrets; None if it has none.

        The parts must be taken in order.
        """
        end = start + size
        parts = []
        position = start
        has_edit = False
        for edit in self._edits:
            if edit.start >= end:
                break
            has_edit = True
            parts.append(self._text[position : max(position, edit.start)])
            if edit.start >= start:
                parts.append(edit.text)
            position = max(position, edit.end)
        while self._edits and self._edits[0].end <= end:
            self._edits.pop(0)
        return "".join([*parts, self._text[position:end]]) if has_edit else None

    def _plain_edits(self, begin: int) -> tuple[list[Edit], bool]:
        """Return the edits of the text from a character on, and whether it has a secret's name."""
        found, has_name = self._redactor.plain_edits(self._text[begin:])
        return [Edit(begin + edit.start, begin + edit.end, edit.text) for edit in found], has_name

    def _document_edits(self, begin: int) -> list[Edit]:
        """Return the edits of a document of JSON that is over."""
        edits = self._redactor.edits(self._text)
        # The edit of a string replaces all of it, and its begin may have been given away.
        cut = next((edit for edit in edits if edit.start < self.n_done < edit.end), None)
        if cut is None:
            return edits
        # Its closing quote stays.
        stop = cut.end - 1
        if is_mark(cut.text[1:-1]):
            rest = [Edit(self.n_done, max(self.n_done, stop), cut.text[1:-1])]
        else:
            plain = [edit for edit in self._plain_edits(begin)[0] if edit.start < stop]
            rest = [Edit(edit.start, min(edit.end, stop), edit.text) for edit in plain]
        return [*rest, *(edit for edit in edits if edit.start >= cut.end)]

    def _searched(self, edits: list[Edit], has_named_json: bool) -> int:
        """Return the number of characters in which all secrets are found.

        Args:
            edits: The secrets so far.
            has_named_json: Whether the text is a part of a JSON document in which a name names a
                secret, and its end tells how far the secret goes.
        """
        text = self._text
        length = len(text)
        n_done = length - WINDOW_CHARS
        # A token may go on, and so may a key.
        near = max(0, length - MAX_HELD_CHARS)
        last_space = max(text.rfind(sign, near) for sign in " \n\t")
        n_done = min(n_done, last_space + 1)
        key_begin = text.rfind(_KEY_BEGIN, self.n_done)
        if key_begin >= 0 and _KEY_END not in text[key_begin:]:
            n_done = min(n_done, key_begin)
        for edit in edits:
            if edit.end > n_done:
                n_done = min(n_done, edit.start)
        if has_named_json:
            n_done = self.n_done
        latest = length - MAX_HELD_CHARS
        for edit in edits:
            # The mark stands for all of a secret.
            if edit.start < latest < edit.end:
                latest = edit.end
        return max(n_done, self.n_done, latest)
