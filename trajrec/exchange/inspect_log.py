"""Logs of Inspect: `.eval` (a zip file) and `.json`, versions 2 and 3.

Each sample of each epoch is an episode. A sample that was tried again holds its earlier tries as
errors: they are failures, and no episodes.
"""

from __future__ import annotations

from collections.abc import Iterator

from trajrec.exchange.account import Account
from trajrec.exchange.candidates import Candidate, Format
from trajrec.exchange.inspect_chunks import SHELL, SampleInChunks
from trajrec.exchange.inspect_sample import read_sample
from trajrec.exchange.reading import Place, object_parts, parse_json
from trajrec.exchange.records import ImportedEpisode
from trajrec.exchange.zip_members import ZipMembers
from trajrec.types import JsonObject

LOG = frozenset(("version", "eval", "plan", "samples"))
EVAL = frozenset(
    (
        "run_id",
        "task",
        "task_version",
        "model",
        "model_generate_config",
        "model_args",
        "config",
        "scorers",
        "packages",
        "dataset",
    )
)
HEADER = "header.json"
JOURNAL = "_journal/start.json"
SAMPLES = "samples/"

# Limits of a sample in the configuration of a run, which are its budget.
_LIMITS = (
    "message_limit",
    "token_limit",
    "turn_limit",
    "time_limit",
    "working_limit",
    "cost_limit",
)

# Members that are computed from the samples.
_DERIVED = ("summaries.json", "reductions.json", "_journal/")

_COMPUTED = "summaries and reductions are computed from the samples"


def _matches(candidate: Candidate) -> bool:
    if candidate.head[:2] == b"PK":
        return candidate.path.suffix == ".eval" or _is_renamed(candidate)
    fields = candidate.fields
    return {"version", "status", "eval"} <= fields.keys() and type(fields["eval"]) is dict


def _is_renamed(candidate: Candidate) -> bool:
    """Return whether a zip file has the members of a log."""
    with ZipMembers(candidate.path) as members:
        return HEADER in members.names or JOURNAL in members.names


def _read(candidate: Candidate, account: Account) -> Iterator[ImportedEpisode]:
    if candidate.head[:2] != b"PK":
        yield from _read_json(candidate, account)
        return
    with ZipMembers(candidate.path) as members:
        yield from _read_zip(candidate, members, account)


def _read_json(candidate: Candidate, account: Account) -> Iterator[ImportedEpisode]:
    place = Place(candidate.path)
    conditions = _Conditions(candidate.fields, place, account)

    def read(position: str, sample: JsonObject) -> Iterator[ImportedEpisode]:
        return conditions.episodes(sample, place.at(position), position, account)

    samples = object_parts(place, candidate.fields.get("samples"), "samples", account)
    yield from account.whole_parts(samples, read)


def _read_zip(
    candidate: Candidate, members: ZipMembers, account: Account
) -> Iterator[ImportedEpisode]:
    place = Place(candidate.path)
    name = HEADER if HEADER in members.names else JOURNAL
    if name not in members.names:
        raise place.error(f"has neither {HEADER} nor {JOURNAL}")
    if name == JOURNAL:
        account.note("the run did not end: its log has a journal and no header")
    header = parse_json(members.read(name), path=candidate.path, position=name)
    conditions = _Conditions(place.at(name).expect(dict, header, "it"), place.at(name), account)
    if members.n_hidden:
        account.drop("a later member of the same name hides it", members.n_hidden)

    in_chunks = {
        name: SampleInChunks(members, name, candidate.path)
        for name in members.names
        if name.startswith(SAMPLES) and name.endswith(SHELL)
    }
    # Their members are read with the shell.
    parts = {name for one in in_chunks.values() for name in one.names} - in_chunks.keys()

    def read(name: str, inner: Place) -> Iterator[ImportedEpisode]:
        if name in in_chunks:
            sample = in_chunks[name].whole()
        else:
            value = parse_json(members.read(name), path=candidate.path, position=name)
            sample = inner.expect(dict, value, "a sample")
        return conditions.episodes(sample, inner, name, account)

    n_derived = sum(one.n_derived for one in in_chunks.values())
    if n_derived:
        account.drop(_COMPUTED, n_derived)
    for name in members.names:
        if name in parts:
            continue
        if name.startswith(SAMPLES) and name.endswith(".json"):
            yield from account.whole_parts([(name, place.at(name))], read)
        elif name.startswith(_DERIVED) and name != JOURNAL:
            account.drop(_COMPUTED)
        elif name not in (HEADER, JOURNAL):
            account.drop(f"{name} is no member that is known")


class _Conditions:
    """The conditions that all samples of a log share."""

    def __init__(self, log: JsonObject, place: Place, account: Account) -> None:
        rest = account.take(log, "log", LOG)
        spec = place.expect(dict, log.get("eval"), "eval")
        spec_rest = account.take(spec, "eval", EVAL)
        self.version = str(log.get("version"))
        self.task = place.optional(str, spec.get("task"), "eval.task", "")
        revision = spec.get("task_version")
        self.revision = "" if revision is None else str(revision)
        self.run = spec.get("run_id")
        names = ("model", "model_args")
        self.interface: JsonObject = {
            "base": {name: spec[name] for name in names if spec.get(name) is not None},
            "scaffold": {"plan": log.get("plan"), "packages": spec.get("packages")},
        }
        config = spec.get("config")
        if type(config) is dict:
            # A log of a version without one of the limits had no such limit.
            limits = {name: config[name] for name in _LIMITS if config.get(name) is not None}
            self.interface["budget"] = limits
            protocol = {name: value for name, value in config.items() if name not in _LIMITS}
            self.interface["eval_protocol"] = protocol
        elif config is not None:
            self.interface["eval_protocol"] = config
        for field, name in (
            ("sampling", "model_generate_config"),
            ("verifier", "scorers"),
            ("env", "dataset"),
        ):
            if spec.get(name) is not None:
                self.interface[field] = spec[name]
        self.extra: JsonObject = {}
        if rest is not None:
            self.extra["log"] = rest
        if spec_rest is not None:
            self.extra["eval"] = spec_rest
        for name, value in (("version", log.get("version")), ("task_version", revision)):
            if type(value) not in (str, int, type(None)):
                # Such as 0.5, of which the text alone would not say that it was a number.
                self.extra[name] = value

    def episodes(
        self, sample: JsonObject, place: Place, position: str, account: Account
    ) -> Iterator[ImportedEpisode]:
        """Yield the episode of a sample, and those of the agents that it called as tools."""
        main = True
        for episode in read_sample(sample, place, position, account):
            episode.version = self.version
            if main:
                sample_id = sample.get("id")
                if sample_id is not None:
                    episode.task = f"{self.task}/{sample_id}"
                episode.task_revision = self.revision
                episode.interface = self.interface
                metadata = {"run": self.run, "group": sample_id, "trial": sample.get("epoch")}
                episode.metadata = {
                    name: value for name, value in metadata.items() if type(value) in (str, int)
                }
                odd = {
                    name: value
                    for name, value in metadata.items()
                    if name not in episode.metadata and value is not None
                }
                if sample.get("invalidation"):
                    episode.metadata["invalidated"] = True
                    account.note(
                        "it has samples that a person has invalidated: their `metadata` has "
                        "`invalidated`, and `extra` the reason"
                    )
                episode.extra = {**self.extra, **(episode.extra or {})}
                if odd:
                    episode.extra["metadata"] = odd
                if sample_id is None and self.task:
                    # A sample without an id is no task of its own.
                    episode.extra["task"] = self.task
            main = False
            yield episode


FORMAT = Format(name="inspect", title="a log of Inspect", matches=_matches, read=_read)
