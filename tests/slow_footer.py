"""Compares the tables of a footer of format 2 with the frames of its log.

Written from docs/reference/log-format.md alone, as `slow_values` was.
"""

from __future__ import annotations

import math
import struct
import sys
from itertools import accumulate
from typing import Any

import numpy as np
from slow_values import Typed, numpy_dtype

Struct = dict[str, Any]

OF_NO_STEP = {"start", "end"}


class FooterTables:
    """Gathers what the tables of a footer must say.

    Args:
        log: The log that the checks are noted in.
    """

    def __init__(self, log: Any) -> None:
        self.log = log
        self.n_steps = 0
        self.steps: dict[tuple[int, int], list[int]] = {}
        self.blobs: list[tuple[bytes, int]] = []
        self.facts: dict[int, Struct] = {}

    def add(self, frame: int, chunk: Struct, events: list[Struct]) -> None:
        """Take a chunk, with the events that are known."""
        for segment in chunk["segments"]:
            first = segment["first_step"]
            steps = range(first, first + segment["n_steps"])
            self.n_steps += segment["n_steps"]
            self.note(frame, segment["episode"], steps)
            self.facts[segment["episode"]]["ends"].append(steps.stop)
        for event in events:
            if event["episode"] < 0:
                continue
            step = event.get("step", -1)
            has_step = event["tag"] not in OF_NO_STEP and step is not None and step >= 0
            self.note(frame, event["episode"], range(step, step + 1) if has_step else range(0))
            if event["tag"] == "blob":
                self.blobs.append((event["digest"], frame))
            self.note_event(self.facts[event["episode"]], event)

    def note(self, frame: int, number: int, steps: range) -> None:
        """Note that a frame has steps of an episode, or events of none."""
        facts = self.facts.setdefault(number, {"kinds": "rollout", "frames": [], "ends": [0]})
        facts["frames"].append(frame)
        self.steps.setdefault((frame, number), []).extend(steps)

    def note_event(self, facts: Struct, event: Struct) -> None:
        match event["tag"]:
            case "start":
                facts |= {"seeds": event["seed"], "started_ns": event["time_ns"]}
            case "task":
                facts["tasks"] = event["task"]
                if event["caller_id"] is not None:
                    facts |= {"kinds": "nested", "parent_ids": event["caller_id"]}
            case "fork":
                facts |= {"kinds": "fork", "parent_ids": event["parent_id"]}
                facts["first_steps"] = event["step"]
                facts["ends"].append(event["step"])
            case "call" | "model" | "failure":
                facts["ends"].append(event["step"] + 1)
            case "end":
                facts |= {"endings": event["ending"], "ended_ns": event["time_ns"]}
                facts["n_steps"] = event["n_steps"]

    def check(self, footer: Struct, rewards: dict[int, list[Typed]]) -> None:
        """Compare a footer; rewards are those of each episode."""
        check = self.log.check
        check("footer: n_steps", footer["n_steps"] == self.n_steps)
        check("footer: n_episodes", footer["n_episodes"] == len(self.facts))
        digests, frames = footer["blobs"]["digests"], accumulate(footer["blobs"]["frames"])
        parts = [digests[at : at + 16] for at in range(0, len(digests), 16)]
        check("footer: blobs", list(zip(parts, frames, strict=True)) == self.blobs)
        check("footer: steps", step_rows(footer["steps"]) == self.step_rows())
        table = footer["episodes"]
        numbers = list(accumulate(table["numbers"]))
        if not check("footer: episodes", numbers == sorted(self.facts)):
            return
        for row, number in enumerate(numbers):
            found = {field: items[row] for field, items in table.items()}
            for field in ("numbers", "started_ns", "first_frames"):
                found[field] = list(accumulate(table[field]))[row]
            total = found.pop("total_rewards")
            check("footer: episode", found == self.episode_row(number), what=f"{number}")
            holds = is_sum(total, rewards.get(number, []))
            check("footer: return", holds, what=f"episode {number}")

    def step_rows(self) -> dict[tuple[int, int], tuple[int, int] | None]:
        return {
            place: (min(steps), max(steps) - min(steps) + 1) if steps else None
            for place, steps in self.steps.items()
        }

    def episode_row(self, number: int) -> Struct:
        facts = self.facts[number]
        started_ns = facts.get("started_ns", 0)
        ended_ns = facts.get("ended_ns")
        frames = facts["frames"]
        return {
            "numbers": number,
            "kinds": facts["kinds"],
            "tasks": facts.get("tasks", ""),
            "seeds": facts.get("seeds"),
            "started_ns": started_ns,
            "durations_ns": None if ended_ns is None else ended_ns - started_ns,
            "first_steps": facts.get("first_steps", 0),
            "end_steps": facts.get("n_steps", max(facts["ends"])),
            "endings": facts.get("endings", ""),
            "first_frames": min(frames),
            "n_frames": max(frames) - min(frames) + 1,
            "parent_ids": facts.get("parent_ids", ""),
        }


def step_rows(table: Struct) -> dict[tuple[int, int], tuple[int, int] | None]:
    """Return frame and episode of each row of a StepTable -> first step and number of steps."""
    places = zip(accumulate(table["frames"]), accumulate(table["episodes"]), strict=True)
    steps = zip(table["first_steps"], table["n_steps"], strict=True)
    return {place: part if part[1] else None for place, part in zip(places, steps, strict=True)}


def to_number(value: Typed) -> float | None:
    """Return a reward as a float; None if it is no number that a float holds."""
    match value:
        case bool() | int():
            return float(value) if abs(value) <= sys.float_info.max else None
        case {"float": bits}:
            return struct.unpack(">d", bytes.fromhex(bits))[0]
        case {"scalar": [stored, data]} | {"array": [stored, _, data]}:
            dtype = numpy_dtype(stored)
            is_one = dtype.kind in "biuf" and len(data) == dtype.itemsize
            return float(np.frombuffer(data, dtype)[0]) if is_one else None
        case {"object": [_, "subclass", {"dict": [["value", number]]}]}:
            return to_number(number)
        case {"object": [_, "array", {"dict": fields}]}:
            named = dict(map(tuple, fields))
            is_masked = any(named["mask"]["array"][2]) if "mask" in named else False
            return None if is_masked else to_number(named["value"])
    return None


def is_sum(total: Typed, rewards: list[Typed]) -> bool:
    """Return whether a return is the sum of some rewards: NaN if one of them is no number."""
    found = to_number(total)
    numbers = list(map(to_number, rewards))
    expected = math.nan if None in numbers else sum(numbers)
    if not math.isfinite(expected):
        # In another order a sum beyond all floats may be of the other sign, or none.
        is_exact = None in numbers or not all(map(math.isfinite, numbers))
        return not math.isfinite(found) and (not is_exact or str(found) == str(expected))
    tolerance = 1e-9 * sum(map(abs, numbers))
    return abs(found - expected) <= tolerance
