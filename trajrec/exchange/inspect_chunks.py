"""Samples of Inspect in chunks: a shell, and sequences of which each member holds a part."""

from __future__ import annotations

from pathlib import Path

from trajrec.exchange.reading import Place, parse_json
from trajrec.exchange.zip_members import ZipMembers
from trajrec.types import JsonObject, Value

SHELL = "/sample.json"

_METADATA = "/metadata.json"

_SEQUENCES = ("messages", "events", "calls", "attachments")

_IDS = "/events/uuids.json"

_DERIVED = ("/skeleton.json", "/events/stats.json", _IDS)


class SampleInChunks:
    """A sample whose values are in several members of a log.

    Args:
        members: The members of the log.
        shell: The name of the member with the sample's own fields.
        path: The log.

    Attributes:
        names: The names of its members.
        n_derived: The number of those that are computed from others.
    """

    def __init__(self, members: ZipMembers, shell: str, path: Path) -> None:
        self._members = members
        self._shell = shell
        self._path = path
        folder = shell.removesuffix(SHELL)
        self._folder = folder
        known = {folder + end for end in (SHELL, _METADATA, *_DERIVED)}
        self._starts: dict[str, list[int]] = {}
        inner = [name for name in members.names if name.startswith(f"{folder}/")]
        for sequence in _SEQUENCES:
            begin = f"{folder}/{sequence}/"
            numbers = [name[len(begin) : -len(".json")] for name in inner if name.startswith(begin)]
            starts = sorted(int(number) for number in numbers if number.isdecimal())
            self._starts[sequence] = starts
            known.update(f"{begin}{start}.json" for start in starts)
        self.names = known.intersection(inner)
        self.n_derived = len(self.names.intersection(folder + end for end in _DERIVED))

    def whole(self) -> JsonObject:
        """Return the sample as a log without chunks has it.

        Raises:
            ImportFileError: A chunk is missing or damaged.
        """
        sample = self._place(self._shell).expect(dict, self._value(self._shell), "a sample")
        if self._folder + _METADATA in self.names:
            sample["metadata"] = self._value(self._folder + _METADATA)
        messages, events, calls, attachments = map(self._sequence, _SEQUENCES)
        if self._folder + _IDS in self.names:
            ids = self._value(self._folder + _IDS)
            if type(ids) is list and len(ids) != len(events):
                what = f"a chunk is missing: it has {len(events)} events of {len(ids)}"
                raise self._place(self._shell).error(what)
        numbers = self._numbers(sample.pop("message_refs", None), "message_refs", len(messages))
        sample["messages"] = [messages[number] for number in numbers]
        # Those at the end that no request has were put there for the conversation alone.
        asked: set[int] = set()
        for event in events:
            refs = event.get("input_refs") if type(event) is dict else None
            asked.update(self._numbers(refs, "input_refs", len(messages)))
        of_conversation = set(numbers) - asked
        while len(messages) - 1 in of_conversation:
            messages.pop()
        sample["events"] = events
        sample["events_data"] = {"messages": messages, "calls": calls}
        sample["attachments"] = {str(number): text for number, text in enumerate(attachments)}
        return sample

    def _sequence(self, name: str) -> list[Value]:
        items: list[Value] = []
        for start in self._starts[name]:
            member = f"{self._folder}/{name}/{start}.json"
            place = self._place(member)
            if start != len(items):
                raise place.error(f"a chunk is missing: {name} {len(items)} to {start}")
            items += place.expect(list, self._value(member), f"a chunk of {name}")
        return items

    def _numbers(self, refs: Value, name: str, n: int) -> list[int]:
        """Return the numbers that half-open ranges name."""
        place = self._place(self._shell)
        numbers: list[int] = []
        for ref in place.optional(list, refs, name, []):
            match ref:
                case [int(first), int(stop)] if 0 <= first <= stop <= n:
                    numbers += range(first, stop)
                case _:
                    raise place.error(f"{name} names messages {ref!r} of {n}")
        return numbers

    def _value(self, member: str) -> Value:
        return parse_json(self._members.read(member), path=self._path, position=member)

    def _place(self, member: str) -> Place:
        return Place(self._path).at(member)
