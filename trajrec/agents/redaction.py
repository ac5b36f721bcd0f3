"""Keeps secrets out of logs: a text that looks like a key is replaced before it is written.

The replacement has the kind of the secret and a keyed digest. Equal secrets stay recognisable
within a process, or everywhere with one `TRAJREC_REDACTION_KEY`, and no secret can be computed from
it.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import string
from collections.abc import Iterable, Mapping

from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.codec import Plain
from trajrec.values.diff import Change, diff

# Kind of secret -> bytes that each one contains, which are searched first, and its pattern.
PATTERNS = {
    "api key": (rb"sk-", r"\bsk-[A-Za-z0-9_-]{16,}"),
    "github token": (rb"gh", r"\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}"),
    "gitlab token": (rb"glpat-", r"\bglpat-[A-Za-z0-9_-]{16,}"),
    "aws key": (rb"A", r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "google key": (rb"AIza", r"\bAIza[A-Za-z0-9_-]{30,}"),
    "slack token": (rb"xox", r"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    "hugging face token": (rb"hf_", r"\bhf_[A-Za-z0-9]{20,}"),
    "jwt": (rb"eyJ", r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
    "bearer token": (rb"earer ", r"(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{8,}"),
    "private key": (
        rb"PRIVATE KEY",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    ),
}

# Keys whose texts are always secrets; compared in lower case, without "_" and "-", so that
# api_key, X-API-Key and apiKey are one name each with apikey.
NAMES = frozenset(
    {
        "accesskey",
        "accesstoken",
        "apikey",
        "authorization",
        "authtoken",
        "clientsecret",
        "cookie",
        "passwd",
        "password",
        "privatekey",
        "proxyauthorization",
        "refreshtoken",
        "secret",
        "secretkey",
        "sessiontoken",
        "setcookie",
        "xapikey",
    }
)

_LOWER = bytes.maketrans(string.ascii_uppercase.encode(), string.ascii_lowercase.encode())
_SEPARATORS = b"_-"

# Bytes that occur in lower case wherever one of the names does: a name that contains another one
# need not be searched.
_NAME_PARTS = [
    name.encode()
    for name in sorted(NAMES)
    if not any(other != name and other in name for other in NAMES)
]

# Environment variables whose values are secrets wherever they appear.
SECRET_VARIABLE = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)

# Shorter values of variables are no secrets: they occur by chance in any text.
MIN_SECRET_CHARS = 8

# Random unless the user sets one, so that no table of digests can be made for guessed secrets.
_KEY = os.environ.get("TRAJREC_REDACTION_KEY", "").encode()[:64] or secrets.token_bytes(32)


class Redactor:
    """Encodes values and texts without the secrets in them.

    Args:
        environment: Environment variables. The values of those that are named like keys, tokens or
            passwords are secrets. Default: those of this process.
        also: Further secrets.
    """

    def __init__(
        self, environment: Mapping[str, str] | None = None, also: Iterable[str] = ()
    ) -> None:
        # No default argument: documentation that prints signatures would print the environment.
        environment = os.environ if environment is None else environment
        values = [
            value
            for name, value in environment.items()
            if SECRET_VARIABLE.search(name) and len(value) >= MIN_SECRET_CHARS
        ]
        # The longest first, so that a secret within another one does not split it.
        self._secrets = sorted({*values, *also}, key=len, reverse=True)
        self._signs = [sign for sign, _ in PATTERNS.values() if len(sign) > 1] + [
            text.encode() for text in self._secrets
        ]
        self._patterns = [
            (kind, re.compile(pattern, re.DOTALL)) for kind, (_, pattern) in PATTERNS.items()
        ]
        self._aws = re.compile(PATTERNS["aws key"][1].encode())

    def encode(self, value: Value) -> tuple[bytes, bool]:
        """Return an encoded value, and whether secrets were removed from it."""
        data = codec.encode(value, opaque=True)
        # Nearly all values end here: patterns are matched only if one of their fixed parts occurs.
        if not self._is_suspicious(data):
            return data, False
        before = codec.decode(data)
        after = self._clean(before)
        redacted = codec.encode(after, opaque=True)
        return redacted, redacted != codec.encode(before, opaque=True)

    def plain(self, value: Value) -> Value:
        """Return a value as a log gives it back: plain, without secrets."""
        return codec.decode(self.encode(value)[0])

    def text(self, text: str) -> str:
        """Return a text without the secrets in it."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, _mark("environment", secret))
        for kind, pattern in self._patterns:
            # A default argument, because the function must keep the kind of this turn.
            text = pattern.sub(
                lambda match, kind=kind: _mark(kind, match.group()),  # type: ignore[misc]
                text,
            )
        return text

    def change(self, change: Change) -> Change:
        """Return a change without the secrets in it. A key in its path may name a secret."""
        for key in change.path.split("/"):
            if _is_secret(key):
                before = self._value(key, change.before)
                return Change(change.path, before, self._value(key, change.after))
        return change

    def _is_suspicious(self, data: bytes) -> bool:
        """Return whether there may be a secret: a fast search for fixed bytes."""
        if any(sign in data for sign in self._signs) or self._aws.search(data):
            return True
        folded = data.translate(_LOWER, _SEPARATORS)
        return any(part in folded for part in _NAME_PARTS)

    def _clean(self, value: Value) -> Value:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, (bytes, bytearray)):
            text = self.text(bytes(value).decode("latin-1"))
            return type(value)(text.encode("latin-1", "replace"))
        if isinstance(value, dict):
            return {self._clean(key): self._value(key, item) for key, item in value.items()}
        if isinstance(value, Plain):
            return Plain(
                value.type_name,
                value.kind,
                {key: self._value(key, item) for key, item in value.fields.items()},
            )
        if isinstance(value, (list, tuple, set, frozenset)) and not hasattr(value, "_fields"):
            return type(value)(self._clean(item) for item in value)
        return value

    def _value(self, key: Value, item: Value) -> Value:
        return self._hide(item, key.lower()) if _is_secret(key) else self._clean(item)

    def _hide(self, value: Value, kind: str) -> Value:
        """Return a value with every text in it replaced."""
        if isinstance(value, (str, bytes)):
            text = value if isinstance(value, str) else value.decode("latin-1")
            return _mark(kind, text.removeprefix("Bearer ")) if text else value
        if isinstance(value, dict):
            return {self._clean(key): self._hide(item, kind) for key, item in value.items()}
        if isinstance(value, Plain):
            fields = {key: self._hide(item, kind) for key, item in value.fields.items()}
            return Plain(value.type_name, value.kind, fields)
        if isinstance(value, (list, tuple, set, frozenset)) and not hasattr(value, "_fields"):
            return type(value)(self._hide(item, kind) for item in value)
        return value


def _is_secret(key: Value) -> bool:
    return isinstance(key, str) and key.lower().replace("-", "").replace("_", "") in NAMES


# A subclass, so that the recorder need not ask in each call whether to redact.
class _NoRedaction(Redactor):
    """Redacts nothing."""

    def __init__(self) -> None:
        super().__init__({})

    def encode(self, value: Value) -> tuple[bytes, bool]:
        return codec.encode(value, opaque=True), False

    def change(self, change: Change) -> Change:
        return change

    def text(self, text: str) -> str:
        return text


NO_REDACTION: Redactor = _NoRedaction()


def as_redactor(redact: bool | Redactor) -> Redactor:
    """Return the given redactor; the default one for True, and one that does nothing for False."""
    if isinstance(redact, Redactor):
        return redact
    return Redactor() if redact else NO_REDACTION


def differences(recorded: Value, actual: Value) -> list[Change]:
    """Return the differences of two values, without digests of secrets, which differ by process."""
    return [change for change in diff(recorded, actual) if not _is_same_mark(change)]


_MARK = re.compile(r"\[redacted ([^\]]*) [0-9a-f]{8}\]")


def _is_same_mark(change: Change) -> bool:
    a = change.before
    b = change.after
    return (
        isinstance(a, str)
        and isinstance(b, str)
        and _MARK.sub(r"[redacted \1]", a) == _MARK.sub(r"[redacted \1]", b)
    )


def _mark(kind: str, secret: str) -> str:
    digest = hashlib.blake2b(
        secret.encode("utf-8", "surrogatepass"), digest_size=4, key=_KEY
    ).hexdigest()
    return f"[redacted {kind} {digest}]"
