"""Keeps secrets out of logs: what looks like a key is replaced before any byte of it is written.

A secret is replaced by its kind and a keyed digest, so that equal secrets stay recognisable within a process (everywhere with
one `TRAJREC_REDACTION_KEY`) and nothing can be computed back.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from trajrec.values import codec
from trajrec.values.codec import Plain
from trajrec.values.diff import Change, diff

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
"""What a secret looks like: bytes that must be there at all, then the pattern."""

NAMES = frozenset(
    {
        "access_key",
        "access_token",
        "api_key",
        "apikey",
        "auth_token",
        "authorization",
        "client_secret",
        "cookie",
        "passwd",
    }
    | {
        "password",
        "private_key",
        "proxy_authorization",
        "refresh_token",
        "secret",
        "secret_key",
        "session_token",
        "set_cookie",
    }
    | {"x_api_key"}
)
"""Keys whose values are secrets, whatever they look like; compared in lower case with "-" as "_"."""

SECRET_VARIABLE = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
"""Environment variables whose values are secrets wherever they appear."""

_KEY = os.environ.get("TRAJREC_REDACTION_KEY", "").encode()[:64] or secrets.token_bytes(32)


class Redactor:
    """Encodes values and texts without the secrets in them.

    Args:
        environment: Where secrets are known from: values of variables that are named like keys, tokens or passwords.
        also: Further secrets, as they are.
    """

    def __init__(
        self, environment: Mapping[str, str] = os.environ, also: Iterable[str] = ()
    ) -> None:
        known = [
            value
            for name, value in environment.items()
            if SECRET_VARIABLE.search(name) and len(value) >= 8
        ]
        self._known = sorted({*known, *also}, key=len, reverse=True)
        names = {part for name in NAMES for part in (name, name.replace("_", "-"))}
        self._signs = [sign for sign, _ in PATTERNS.values() if len(sign) > 1] + [
            text.encode() for text in self._known
        ]
        self._signs += [
            name[1:].encode() for name in sorted(names)
        ]  # without the first letter, which may be a capital
        self._capitals = re.compile(
            "|".join(re.escape(name) for name in sorted(names)).encode(), re.IGNORECASE
        )
        self._patterns = [
            (kind, re.compile(pattern, re.DOTALL)) for kind, (_, pattern) in PATTERNS.items()
        ]
        self._aws = re.compile(PATTERNS["aws key"][1].encode())

    def encode(self, value: Any) -> tuple[bytes, bool]:
        """Return a value encoded, and whether something was taken out of it."""
        data = codec.encode(value, opaque=True)
        if not self._is_suspicious(data):
            return data, False
        before = codec.decode(data)
        after = self._clean(before)
        redacted = codec.encode(after, opaque=True)
        return redacted, redacted != codec.encode(before, opaque=True)

    def plain(self, value: Any) -> Any:
        """Return a value as it is read back from a log."""
        return codec.decode(self.encode(value)[0])

    def text(self, text: str) -> str:
        """Return a text without the secrets in it."""
        for secret in self._known:
            if secret in text:
                text = text.replace(secret, _mark("environment", secret))
        for kind, pattern in self._patterns:
            text = pattern.sub(lambda match, kind=kind: _mark(kind, match.group()), text)  # type: ignore[misc]
        return text

    def change(self, change: Change) -> Change:
        """Return a change without the secrets in it: the path alone may say that there is one."""
        for key in change.path.split("/"):
            if _is_secret(key):
                return Change(
                    change.path,
                    *(self._value(key, value) for value in (change.before, change.after)),
                )
        return change

    def _is_suspicious(self, data: bytes) -> bool:
        """Say whether there may be a secret: searches for fixed bytes, which is fast, before anything else."""
        return any(sign in data for sign in self._signs) or bool(
            self._aws.search(data) or _has_capital_name(self, data)
        )

    def _clean(self, value: Any) -> Any:
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

    def _value(self, key: Any, item: Any) -> Any:
        if _is_secret(key) and isinstance(item, (str, bytes)) and item:
            text = item if isinstance(item, str) else item.decode("latin-1")
            return _mark(key.lower(), text.removeprefix("Bearer "))
        return self._clean(item)


def _is_secret(key: Any) -> bool:
    return isinstance(key, str) and key.lower().replace("-", "_") in NAMES


class _NoRedaction(Redactor):
    """Redacts nothing."""

    def __init__(self) -> None:
        super().__init__({})

    def encode(self, value: Any) -> tuple[bytes, bool]:
        return codec.encode(value, opaque=True), False

    def change(self, change: Change) -> Change:
        return change

    def text(self, text: str) -> str:
        return text


NO_REDACTION: Redactor = _NoRedaction()


def _has_capital_name(redactor: Redactor, data: bytes) -> bool:
    # Headers come as X-API-Key or AUTHORIZATION: only where a key is long enough in capitals is the slower search worth it.
    return (
        b"KEY" in data or b"AUTH" in data or b"PASS" in data or b"TOKEN" in data or b"-K" in data
    ) and bool(redactor._capitals.search(data))


def differences(recorded: Any, now: Any) -> list[Change]:
    """Return where a recorded value and one of now differ, but for digests of redacted texts, which are of one process."""
    return [change for change in diff(recorded, now) if not _is_same_mark(change)]


_MARK = re.compile(r"\[redacted ([^\]]*) [0-9a-f]{8}\]")


def _is_same_mark(change: Change) -> bool:
    a, b = change.before, change.after
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
