"""Keeps secrets out of logs: values and texts are searched before they are written."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Mapping

from trajrec.redaction.database_files import MAGIC, rows_of
from trajrec.redaction.digests import mark
from trajrec.redaction.escapes import unescaped
from trajrec.redaction.findings import Findings, Span
from trajrec.redaction.names import Strength, kind_of, strength_of
from trajrec.redaction.nested import (
    Edit,
    apply_edits,
    edit_json,
    may_be_json,
)
from trajrec.redaction.own_rules import rules_of_environment
from trajrec.redaction.plausibility import is_common_word
from trajrec.redaction.rules import Shape
from trajrec.redaction.scanner import Scanner
from trajrec.redaction.structure import (
    SQLITE_SCHEMA,
    Cleaner,
    as_bytes,
    may_have_cookie,
    may_hide,
)
from trajrec.redaction.survey import Survey, has_none
from trajrec.redaction.token_data import without_tokens
from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.diff import MISSING, Change
from trajrec.values.encoder import MAX_REPR
from trajrec.values.plain import NUMBER_TYPES

SECRET_VARIABLE = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
"""Environment variables whose values are secrets wherever they appear."""

MIN_SECRET_CHARS = 8
"""Shorter values of variables are no secrets: they occur by chance in any text."""

# The working folder, not a password.
_HARMLESS_VARIABLES = frozenset({"PWD", "OLDPWD"})

_LAST_WORD = re.compile(r"[^\s\"'<>()\[\]{},;]*\Z")

# Between two texts that are searched as one. No pattern goes over it: they end at a line or at NUL.
_BORDER = "\n\0\n"


class Redactor:
    """Encodes values and texts without the secrets in them.

    Args:
        environment: Environment variables. The values of those that are named like keys, tokens or
            passwords are secrets, and so are the passwords in those that are URLs. Default: those
            of this process.
        also: Further secrets.
        rules: Further kinds of secrets: name of the kind -> regular expression. The secret is its
            group "secret", or all of it without one. The environment variable
            TRAJREC_REDACTION_RULES names a JSON file of such rules for all redactors.
        names: Further names that name secrets: of keys, fields, options and variables.

    Raises:
        TypeError: `also` or `names` is one text, or has something that is none.
        ValueError: A further secret or name is empty, a rule is no regular expression of bytes, or
            the file of rules cannot be read.

    Attributes:
        is_on: Whether it redacts anything.
    """

    is_on = True

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        also: Iterable[str] = (),
        *,
        rules: Mapping[str, str] | None = None,
        names: Iterable[str] = (),
    ) -> None:
        # No default argument: documentation that prints signatures would print the environment.
        variables = os.environ if environment is None else environment
        also = _texts("also", also)
        names = _texts("names", names)
        if "" in also:
            raise ValueError("also must be secrets, and an empty text is in every text")
        self._names = tuple(_folded(name) for name in names)
        if "" in self._names:
            raise ValueError(f"names must have letters, or every name ends with one, got {names!r}")
        own_rules = {**rules_of_environment(variables), **(rules or {})}
        self._strength_of = self._own_strength if self._names else strength_of
        self._scanner = Scanner(
            rules=[_own_rule(kind, pattern) for kind, pattern in own_rules.items()],
            secrets={*_secrets_of(frozenset(variables.items())), *also},
            names=[name.lower() for name in names],
            strength_of=self._strength_of,
        )

    def encode(
        self, value: Value, *, where: str = "value", opaque: bool = True
    ) -> tuple[bytes, bool]:
        """Return an encoded value, and whether secrets were removed from it.

        Args:
            value: The value.
            where: Its name in error messages; see `trajrec.values.codec.encode`.
            opaque: Whether to store `Opaque` instead of raising if a value cannot be stored.

        Raises:
            EncodeError: A part of the value cannot be stored, and `opaque` is false.
        """
        data = codec.encode(value, where=where, opaque=opaque)
        # Nearly all values end here, without being decoded.
        if not self._may_have_secret(value, data):
            return data, False
        cleaned, n = self.clean(codec.decode(data))
        return (codec.encode(cleaned, opaque=True), True) if n else (data, False)

    def redacted(
        self, value: Value, *, where: str = "value", opaque: bool = True
    ) -> tuple[Value, int]:
        """Return a value without secrets, and their number; the value itself if it has none.

        The arguments and errors are those of `encode`.
        """
        if not self._may_have_secret(value, None):
            return value, 0
        cleaned, n = self.clean(codec.decode(codec.encode(value, where=where, opaque=opaque)))
        return (cleaned, n) if n else (value, 0)

    def may_have_text(self, value: Value) -> bool:
        """Return whether values like this one may have texts: it has one, or None, or an object."""
        if type(value) is list and NUMBER_TYPES.issuperset(map(type, value)):
            return False
        survey = self._survey(value)
        return survey.has_object or survey.has_name or bool(survey.texts) or has_none(value)

    def clean(self, value: Value) -> tuple[Value, int]:
        """Return decoded plain data without secrets, and the number of secrets that it had."""
        cleaner = self._cleaner()
        cleaned = cleaner.clean(value)
        return (without_tokens(cleaned) if cleaner.n else cleaned), cleaner.n

    def plain(self, value: Value) -> Value:
        """Return a value as a log gives it back: plain, without secrets."""
        return codec.decode(self.encode(value)[0])

    def text(self, text: str) -> str:
        """Return a text without the secrets in it."""
        return self._text(text)[0] if text else ""

    def change(self, change: Change) -> Change:
        """Return a change without the secrets in it. A key in its path may name a secret."""
        # Names of tables, and modes of files, are no secrets.
        if change.path[:1] == (SQLITE_SCHEMA,) or change.path[-1:] == ("mode",):
            return change
        for key in change.path:
            strength = self._strength_of(key) if isinstance(key, str) else ""
            if strength:
                cleaner = self._cleaner()
                before, after = (
                    cleaner.hide(
                        codec.decode(codec.encode(value, opaque=True)), kind_of(key), strength
                    )
                    if value is not MISSING
                    else value
                    for value in (change.before, change.after)
                )
                return Change(change.path, before, after)
        return change

    def _own_strength(self, name: str) -> Strength:
        """Return how surely a name names a secret, with the names that the user gave."""
        return "password" if _folded(name).endswith(self._names) else strength_of(name)

    def _cleaner(self) -> Cleaner:
        return Cleaner(
            text=self._text,
            cut_text=self._cut_text,
            data=self._data,
            strength_of=self._strength_of,
        )

    def _survey(self, value: Value) -> Survey:
        """Return the texts of a value."""
        survey = Survey(self._strength_of, self._scanner.key_chars)
        try:
            survey.add(value)
        except RecursionError:
            # A cycle. Encoding the value says so.
            survey.has_object = True
        return survey

    def _may_have_secret(self, value: Value, data: bytes | None) -> bool:
        """Return whether a value may have a secret, of which `data` is the encoding if known."""
        survey = self._survey(value)
        if survey.has_object and not survey.has_name:
            encoded = codec.encode(value, opaque=True) if data is None else data
            survey = self._survey(codec.decode(encoded))
        if survey.has_name:
            return True
        if not survey.texts:
            return False
        if self._scanner.has_patterns:
            # A rule such as `^\d{6}$` finds nothing in texts that are searched as one.
            return True
        joined = _BORDER.join(survey.texts).encode("utf-8", "surrogatepass")
        findings = self._scanner.search(joined)
        return bool(findings.spans) or (survey.has_json and self._has_hidden(joined, findings))

    def _has_hidden(self, data: bytes, findings: Findings) -> bool:
        """Return whether a text that has JSON may have a secret, by its words or by a name."""
        if findings.has_password or may_have_cookie(data):
            return True
        if not (findings.spans or findings.has_name) and b"\\" in data:
            # `\n` and `\/` are other signs in the text than in the document.
            findings = self._scanner.search(unescaped(data))
        return bool(findings.spans) or findings.has_name

    def edits(self, text: str) -> list[Edit]:
        """Return the changes that take the secrets out of a text, in order."""
        data = text.encode("utf-8", "surrogatepass")
        findings = self._scanner.search(data)
        if may_be_json(text) and self._has_hidden(data, findings):
            edits = edit_json(text, self._cleaner().clean)
            if edits is not None:
                return edits
        return _as_edits(data, findings.spans)

    def plain_edits(self, text: str) -> tuple[list[Edit], bool]:
        """Return the same for a text that is no document, and whether it has a secret's name."""
        data = text.encode("utf-8", "surrogatepass")
        findings = self._scanner.search(data)
        has_name = findings.has_name or findings.has_password or may_have_cookie(data)
        return _as_edits(data, findings.spans), has_name

    def may_hide(self, value: Value) -> bool:
        """Return whether a name in a document may hide a text in it, if the text is another one."""
        return may_hide(value, self._strength_of)

    def hide_named(self, value: Value) -> tuple[Value, int]:
        """Return decoded plain data without the values under names of secrets, and their number.

        The texts in it are not searched.
        """
        if not self._survey(value).has_name:
            return value, 0
        cleaner = Cleaner(
            text=lambda text: (text, 0),
            cut_text=lambda text: (text, 0),
            data=lambda data: (data, 0),
            strength_of=self._strength_of,
        )
        return cleaner.clean(value), cleaner.n

    def _text(self, text: str) -> tuple[str, int]:
        """Return a text without secrets, and their number."""
        edits = self.edits(text)
        return (apply_edits(text, edits), len(edits)) if edits else (text, 0)

    def _data(self, data: bytes) -> tuple[bytes, int]:
        """Return bytes without secrets, and their number."""
        if data.startswith(MAGIC):
            _, n = self.clean(rows_of(data))
            if n:
                # A database of which a part is replaced is none any more.
                return mark("database with secrets", data).encode(), n
        try:
            text, n = self._text(data.decode())
        except UnicodeDecodeError:
            pass
        else:
            return (text.encode("utf-8", "backslashreplace"), n) if n else (data, 0)
        edits = _as_edits(data, self._scanner.search(data).spans, "latin-1")
        if not edits:
            return data, 0
        return as_bytes(apply_edits(data.decode("latin-1"), edits)), len(edits)

    def _cut_text(self, text: str) -> tuple[str, int]:
        """Return the start of a longer text without secrets, and their number."""
        cleaned, n = self._text(text)
        if len(text) < MAX_REPR:
            return cleaned, n
        # The rest of a secret may have been cut off, and its start is enough to guess it.
        last = _LAST_WORD.search(cleaned)
        if last is None or not self._scanner.may_begin_secret(last[0].encode()):
            return cleaned, n
        return f"{cleaned[: last.start()]}{mark('cut off', last[0])}", n + 1


class _NoRedaction(Redactor):
    """Redacts nothing: a subclass, so that a recorder need not ask in each call."""

    is_on = False

    def __init__(self) -> None:
        super().__init__({})

    def encode(
        self, value: Value, *, where: str = "value", opaque: bool = True
    ) -> tuple[bytes, bool]:
        return codec.encode(value, where=where, opaque=opaque), False

    def clean(self, value: Value) -> tuple[Value, int]:
        return value, 0

    def redacted(
        self, value: Value, *, where: str = "value", opaque: bool = True
    ) -> tuple[Value, int]:
        return value, 0

    def may_have_text(self, value: Value) -> bool:
        return False

    def change(self, change: Change) -> Change:
        return change

    def edits(self, text: str) -> list[Edit]:
        return []

    def plain_edits(self, text: str) -> tuple[list[Edit], bool]:
        return [], False

    def hide_named(self, value: Value) -> tuple[Value, int]:
        return value, 0


def as_redactor(redact: bool | Redactor) -> Redactor:
    """Return the given redactor; the default one for True, and one that does nothing for False."""
    if isinstance(redact, Redactor):
        return redact
    return Redactor() if redact else NO_REDACTION


def _as_edits(data: bytes, spans: Iterable[Span], encoding: str = "utf-8") -> list[Edit]:
    """Return the replacement of secrets by marks, in characters of the decoded text."""
    edits = []
    n_bytes = 0
    n_chars = 0
    for start, end, kind in spans:
        n_chars += len(data[n_bytes:start].decode(encoding, "surrogatepass"))
        secret = data[start:end].decode(encoding, "surrogatepass")
        edits.append(Edit(n_chars, n_chars + len(secret), mark(kind, data[start:end])))
        n_bytes = end
        n_chars += len(secret)
    return edits


def _texts(argument: str, values: Iterable[str]) -> list[str]:
    """Return some texts as a list. Of one text, each letter would be a secret."""
    texts = [] if isinstance(values, str) else list(values)
    if isinstance(values, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{argument} must be a list of texts, got {type(values).__name__}")
    return texts


def _own_rule(kind: str, pattern: str) -> Shape:
    try:
        re.compile(pattern.encode())
    except re.error as exc:
        raise ValueError(
            f"the rule {kind!r} is no regular expression of bytes ({exc}): {pattern!r}"
        ) from exc
    return Shape(kind, "", pattern, "")


def _folded(name: str) -> str:
    return re.sub("[-_ ]", "", name.lower())


# The environment is the same for most episodes of a process, and takes a while to search.
@functools.lru_cache(maxsize=8)
def _secrets_of(variables: frozenset[tuple[str, str]]) -> frozenset[str]:
    """Return the secrets among environment variables, given as (name, value)."""
    secrets = set()
    scanner = Scanner()
    for name, value in variables:
        if len(value) < MIN_SECRET_CHARS or name in _HARMLESS_VARIABLES:
            continue
        if SECRET_VARIABLE.search(name) or strength_of(name) in ("key", "password"):
            # POSTGRES_PASSWORD=password hides nothing, and would damage most texts.
            if not is_common_word(value):
                secrets.add(value)
        elif "://" in value:
            data = value.encode("utf-8", "surrogateescape")
            for span in scanner.search(data).spans:
                secret = data[span.start : span.end].decode("utf-8", "replace")
                if len(secret) >= MIN_SECRET_CHARS:
                    secrets.add(secret)
    return frozenset(secrets)


NO_REDACTION: Redactor = _NoRedaction()
"""Redacts nothing."""
