"""The ten tasks of Workspace: small modules with one fault each, and tests that show the fault."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """A test: an expression, and the expression of the value that it must have."""

    expression: str
    expected: str


class Task(NamedTuple):
    """A module, its fault, and its tests.

    Attributes:
        name: Name of the module.
        module: Text of the module without the fault.
        wrong: Text that stands in the faulty module in place of `right`.
        right: Text that occurs once in the module.
        cases: The tests.
    """

    name: str
    module: str
    wrong: str
    right: str
    cases: tuple[Case, ...]

    @property
    def broken(self) -> str:
        """The text of the module with its fault."""
        return self.module.replace(self.right, self.wrong)

    @property
    def tests(self) -> str:
        """The text of a unittest module with the cases."""
        lines = [
            "import unittest",
            "",
            f"from {self.name} import *",
            "",
            "",
            "class Tests(unittest.TestCase):",
        ]
        for number, case in enumerate(self.cases):
            lines += [
                f"    def test_{number}(self):",
                f"        self.assertEqual({case.expression}, {case.expected})",
                "",
            ]
        return "\n".join(lines)


# The order is part of recorded episodes: `options={"task": 2}` must stay the same task. The texts
# are recorded too, so another text would make old episodes diverge.
TASKS = (
    Task(
        name="median",
        module="""\
def median(values):
    ordered = sorted(values)
    half = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[half]
    return (ordered[half - 1] + ordered[half]) / 2
""",
        wrong="(ordered[half] + ordered[half + 1])",
        right="(ordered[half - 1] + ordered[half])",
        cases=(
            Case("median([3, 1, 2])", "2"),
            Case("median([4, 1, 3, 2])", "2.5"),
            Case("median([1, 2])", "1.5"),
        ),
    ),
    Task(
        name="roman",
        module="""\
SIGNS = [(1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"),
         (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")]


def roman(number):
    text = ""
    for value, sign in SIGNS:
        while number >= value:
            text += sign
            number -= value
    return text
""",
        wrong="while number > value:",
        right="while number >= value:",
        cases=(
            Case("roman(4)", '"IV"'),
            Case("roman(1994)", '"MCMXCIV"'),
            Case("roman(1)", '"I"'),
        ),
    ),
    Task(
        name="slug",
        module="""\
import re


def slug(title):
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
""",
        wrong='title).strip("-")',
        right='title.lower()).strip("-")',
        cases=(
            Case('slug("Hello, World!")', '"hello-world"'),
            Case('slug("  A  b ")', '"a-b"'),
            Case('slug("x")', '"x"'),
        ),
    ),
    Task(
        name="leap",
        module="""\
def is_leap(year):
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
""",
        wrong="year % 4 == 0 and year % 100 != 0",
        right="year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)",
        cases=(
            Case("is_leap(2000)", "True"),
            Case("is_leap(1900)", "False"),
            Case("is_leap(2024)", "True"),
            Case("is_leap(2023)", "False"),
        ),
    ),
    Task(
        name="chunks",
        module="""\
def chunks(items, size):
    return [items[i:i + size] for i in range(0, len(items), size)]
""",
        wrong="range(0, len(items) - size, size)",
        right="range(0, len(items), size)",
        cases=(
            Case("chunks([1, 2, 3], 2)", "[[1, 2], [3]]"),
            Case("chunks([], 3)", "[]"),
            Case("chunks([1, 2], 2)", "[[1, 2]]"),
        ),
    ),
    Task(
        name="bag",
        module="""\
class Bag:
    def __init__(self, items=None):
        self.items = list(items or [])

    def add(self, item):
        self.items.append(item)
        return self.items
""",
        wrong="""\
def __init__(self, items=[]):
        self.items = items
""",
        right="""\
def __init__(self, items=None):
        self.items = list(items or [])
""",
        cases=(
            Case("Bag().add(1)", "[1]"),
            Case("Bag().add(2)", "[2]"),
            Case("Bag([1]).add(2)", "[1, 2]"),
        ),
    ),
    Task(
        name="interval",
        module="""\
def overlap(a, b):
    start, end = max(a[0], b[0]), min(a[1], b[1])
    return (start, end) if start < end else None
""",
        wrong="min(a[0], b[0]), max(a[1], b[1])",
        right="max(a[0], b[0]), min(a[1], b[1])",
        cases=(
            Case("overlap((0, 5), (3, 9))", "(3, 5)"),
            Case("overlap((0, 1), (2, 3))", "None"),
            Case("overlap((1, 9), (2, 3))", "(2, 3)"),
        ),
    ),
    Task(
        name="search",
        module="""\
def find(items, wanted):
    low, high = 0, len(items)
    while low < high:
        middle = (low + high) // 2
        if items[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low if low < len(items) and items[low] == wanted else -1
""",
        wrong="high = middle - 1\n",
        right="high = middle\n",
        cases=(
            Case("find([1, 3, 5], 1)", "0"),
            Case("find([1, 3, 5], 3)", "1"),
            Case("find([1, 3, 5], 4)", "-1"),
            Case("find([], 1)", "-1"),
        ),
    ),
    Task(
        name="money",
        module="""\
def format_cents(cents):
    sign = "-" if cents < 0 else ""
    whole, rest = divmod(abs(cents), 100)
    return f"{sign}{whole}.{rest:02d}"
""",
        wrong="{whole}.{rest}",
        right="{whole}.{rest:02d}",
        cases=(
            Case("format_cents(105)", '"1.05"'),
            Case("format_cents(-250)", '"-2.50"'),
            Case("format_cents(1234)", '"12.34"'),
        ),
    ),
    Task(
        name="words",
        module="""\
def count(text):
    found = {}
    for word in text.split():
        found[word] = found.get(word, 0) + 1
    return found
""",
        wrong="found[word] = 1",
        right="found[word] = found.get(word, 0) + 1",
        cases=(
            Case('count("a b a")', '{"a": 2, "b": 1}'),
            Case('count("")', "{}"),
            Case('count("x")', '{"x": 1}'),
        ),
    ),
)
