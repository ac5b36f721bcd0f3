"""Content codings of HTTP: gzip, deflate, zstd and br are decoded, others are kept as they are.

Python has no decoder of br. A Python client that asks for it has one of two packages, which is used
here too; without them, a body in br is kept as it is. For clients in other languages, the proxy asks
the server for other codings (`readable_codings`).
"""

from __future__ import annotations

import functools
import importlib
import zlib
from collections.abc import Callable
from types import ModuleType
from typing import Protocol, TypeAlias

import zstandard

from trajrec.wire.exchange import HttpRequest, header

Decode: TypeAlias = Callable[[bytes], bytes]

MAX_RATIO = 2000
"""No honest answer is compressed more than this; a bomb is not unpacked."""

MIN_BOMB_BYTES = 1 << 26

# A first piece that is shorter does not tell the zlib format from the bare one.
_ZLIB_HEADER = 2


class BombError(ValueError):
    """A body grows without measure when it is decoded."""


def decoded_request(request: HttpRequest) -> HttpRequest:
    """Return a request with its body decoded; itself, if the body is plain or cannot be decoded.

    >>> import gzip
    >>> coded = HttpRequest("POST", "/", [("content-encoding", "gzip")], gzip.compress(b"{}"))
    >>> decoded_request(coded)
    HttpRequest(method='POST', url='/', headers=[], body=b'{}')
    """
    coding = header(request.headers, "content-encoding")
    # Clients that compress while they send have the header already, and the body still plain.
    if not coding or not request.body or request.body[:1] in b"{[":
        return request
    decoder = ContentDecoder(coding)
    if not decoder.is_known:
        return request
    try:
        body = decoder.decode(request.body)
    except ValueError:
        return request
    headers = [(name, value) for name, value in request.headers if name != "content-encoding"]
    return request._replace(headers=headers, body=body)


class ContentDecoder:
    """Decodes a body piece by piece.

    Args:
        coding: The header `content-encoding`, "" if there is none.

    Attributes:
        is_known: Whether the body can be decoded; if not, the pieces are given back as they are.
    """

    def __init__(self, coding: str) -> None:
        codings = [name.strip().lower() for name in coding.split(",") if name.strip()]
        codings = [name for name in codings if name != "identity"]
        self.is_known = all(map(_is_known, codings))
        self._decoders = [_DECODERS[name]() for name in reversed(codings)] if self.is_known else []
        self._n_in = 0
        self._n_out = 0

    @property
    def is_plain(self) -> bool:
        """Whether the pieces are given back as they are."""
        return not self._decoders

    def decode(self, data: bytes) -> bytes:
        """Return what a piece adds to the decoded body.

        Raises:
            ValueError: The body is not in its coding, or a bomb.
        """
        self._n_in += len(data)
        for decoder in self._decoders:
            data = decoder(data)
        self._n_out += len(data)
        if self._n_out > MIN_BOMB_BYTES and self._n_out > MAX_RATIO * self._n_in:
            raise BombError(f"{self._n_in} bytes grow to {self._n_out}")
        return data


def _gzip() -> Decode:
    decode_members = _members(lambda: zlib.decompressobj(31), zlib.error)
    has_ended = False

    def decode(data: bytes) -> bytes:
        nonlocal has_ended
        if has_ended:
            return b""
        decoded, rest = decode_members(data)
        # Bytes behind a member that begin no other one are filling, which clients leave out too.
        has_ended = bool(rest)
        return decoded

    return decode


def _deflate() -> Decode:
    # Some servers send the zlib format, as the standard says, and some the bare one.
    state: list[Decode] = []
    begin = b""

    def decode(data: bytes) -> bytes:
        nonlocal begin
        if not state:
            data = begin = begin + data
            if len(begin) < _ZLIB_HEADER:
                return b""
            try:
                wrapped = zlib.decompressobj()
                decoded = wrapped.decompress(data)
            except zlib.error:
                state.append(_zlib(zlib.decompressobj(-15).decompress))
            else:
                state.append(_zlib(wrapped.decompress))
                return decoded
        return state[0](data)

    return decode


def _zlib(decompress: Decode) -> Decode:
    def decode(data: bytes) -> bytes:
        try:
            return decompress(data)
        except zlib.error as exc:
            raise ValueError(str(exc)) from exc

    return decode


def _zstd() -> Decode:
    decode_members = _members(
        lambda: zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError
    )

    def decode(data: bytes) -> bytes:
        decoded, rest = decode_members(data)
        if rest:
            raise ValueError("bytes behind a frame that are no frame")
        return decoded

    return decode


class _Member(Protocol):
    """Decodes one member of a body."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def _members(
    make: Callable[[], _Member], error: type[Exception]
) -> Callable[[bytes], tuple[bytes, bytes]]:
    """Return a function that decodes a body of several members, each with an end of its own.

    It returns what a piece adds, and the rest of the piece that is no member. It raises a
    ValueError if the first member is broken.
    """
    member = make()
    n_done = 0

    def decode(data: bytes) -> tuple[bytes, bytes]:
        nonlocal member, n_done
        decoded = []
        while data:
            if member.eof:
                member = make()
                n_done += 1
            try:
                decoded.append(member.decompress(data))
            except error as exc:
                if n_done:
                    return b"".join(decoded), data
                raise ValueError(str(exc)) from exc
            data = member.unused_data if member.eof else b""
        return b"".join(decoded), b""

    return decode


@functools.cache
def _brotli() -> ModuleType | None:
    """Return the package that decodes br; None if there is none."""
    for name in ("brotli", "brotlicffi"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def _br() -> Decode:
    package = _brotli()
    if package is None:
        raise ValueError("no package decodes br")
    error: type[Exception] = package.error
    decompressor = package.Decompressor()
    # The two packages call it by different names.
    process: Decode = getattr(decompressor, "process", None) or decompressor.decompress

    def decode(data: bytes) -> bytes:
        try:
            return process(data)
        except error as exc:
            raise ValueError(str(exc)) from exc

    return decode


def readable_codings(accepted: str) -> str:
    """Return a client's Accept-Encoding without the codings that are not decoded here.

    >>> readable_codings("gzip;q=0.5, compress, *")
    'gzip;q=0.5'
    >>> readable_codings("compress")
    'identity'
    """
    items = [item.strip() for item in accepted.split(",")]
    kept = [item for item in items if _is_kept(item.partition(";")[0].strip().lower())]
    return ", ".join(kept) or "identity"


def _is_kept(coding: str) -> bool:
    return coding == "identity" or _is_known(coding)


def _is_known(coding: str) -> bool:
    return coding in _DECODERS and (coding != "br" or _brotli() is not None)


_DECODERS: dict[str, Callable[[], Decode]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "zstd": _zstd,
    "br": _br,
}
