"""The formats that are imported, in the order in which they are looked for."""

from __future__ import annotations

from trajrec.exchange import (
    agentdojo,
    atif,
    claude_code,
    codex,
    gemini_cli,
    harbor,
    inspect_log,
    messages,
    minari,
    mini_swe_agent,
    openhands,
    openhands_sdk,
    otlp,
    swe_agent,
    tau2,
    tau_bench,
    verifiers,
    who_when,
)
from trajrec.exchange.candidates import Candidate, Format
from trajrec.exchange.tables import columns_of

FORMATS: tuple[Format, ...] = (
    minari.FORMAT,
    harbor.FORMAT,
    atif.FORMAT,
    inspect_log.FORMAT,
    claude_code.FORMAT,
    codex.FORMAT,
    gemini_cli.FORMAT,
    otlp.FORMAT,
    tau_bench.FORMAT,
    tau2.FORMAT,
    openhands.FORMAT,
    openhands_sdk.FORMAT,
    who_when.FORMAT,
    swe_agent.FORMAT,
    mini_swe_agent.FORMAT,
    agentdojo.FORMAT,
    verifiers.FORMAT,
    messages.FORMAT,
)
"""The formats. A folder that is a trajectory comes first; formats that any other one might be taken
for come last."""

_TERMINAL = "is a recording of a terminal (asciinema), which holds no calls"

_BY_SUFFIX = {
    ".cast": _TERMINAL,
    ".pb": "is no whole export of traces in OTLP's protobuf",
    ".trj": "is a log of trajrec",
}

_WIDE = "is text in UTF-16 or UTF-32: convert it to UTF-8"

_BY_HEAD = {
    b"\x1f\x8b": "is compressed with gzip: unpack it first",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd: unpack it first",
    b"\xfd7zXZ": "is compressed with xz: unpack it first",
    b"BZh": "is compressed with bzip2: unpack it first",
    b"PK\x03\x04": "is a zip file, and no log of Inspect: unpack it first",
    b"\xff\xfe": _WIDE,
    b"\xfe\xff": _WIDE,
}

_BY_FIELDS: tuple[tuple[frozenset[str], str], ...] = (
    (
        frozenset(("info", "tasks")),
        "is an index of tau2: import the folder that has `simulations` beside it",
    ),
    (
        frozenset(("id", "content", "details")),
        "is of ADP's own form, which has neither ids nor pairs of calls and results: import the "
        "ATIF that ADP's data sets hold (`sample_atif.json`)",
    ),
    (
        frozenset(("trace", "observations")),
        "is an export of Langfuse: import what its OpenTelemetry side holds, as OTLP/JSON",
    ),
    (
        frozenset(("info", "data")),
        "is a trace of MLflow: export it as OTLP/JSON",
    ),
    (
        frozenset(("trace", "labels")),
        "is a table of TRAIL, whose traces are nested JSON texts; it is not imported",
    ),
    (frozenset(("prompt",)), "holds prompts and no trajectories"),
    (frozenset(("version", "width", "height")), _TERMINAL),
    (frozenset(("version", "term")), _TERMINAL),
)
"""Fields or columns of files that are not imported, and the sentence that says so."""


def format_named(name: str) -> Format:
    """Return a format by its name.

    Raises:
        ValueError: There is none.
    """
    for format in FORMATS:
        if format.name == name:
            return format
    names = ", ".join(format.name for format in FORMATS)
    raise ValueError(f"format must be one of {names}, got {name!r}")


def why_refused(candidate: Candidate) -> str:
    """Return why a file is not imported, in a sentence."""
    fields = candidate.first_record
    columns = columns_of(candidate)
    for names, reason in _BY_FIELDS:
        if names <= fields.keys() or names <= columns:
            return reason
    for head, reason in _BY_HEAD.items():
        if candidate.head.startswith(head):
            return reason
    start = candidate.head[:8]
    if b"\0" in start and start.replace(b"\0", b"").strip()[:1] in (b"{", b"["):
        return _WIDE
    known = _BY_SUFFIX.get(candidate.path.suffix)
    return known or "is of no format that trajrec imports; `trajrec import -h` lists them"
