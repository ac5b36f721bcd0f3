"""The workspace's tasks: small modules with one fault each, and tests that show it."""

from __future__ import annotations

from typing import NamedTuple


class Task(NamedTuple):
    """A module whose text holds `wrong` where it should be `right`, and its tests."""

    name: str
    module: str
    wrong: str
    right: str
    cases: tuple[tuple[str, str], ...]

    @property
    def broken(self) -> str:
        """The module with its fault."""
        return self.module.replace(self.right, self.wrong)

    @property
    def tests(self) -> str:
        """A unittest module: each case is an expression and what it must be."""
        lines = [
            "import unittest",
            "",
            f"from {self.name} import *",
            "",
            "",
            "class Tests(unittest.TestCase):",
        ]
        for number, (expression, expected) in enumerate(self.cases):
            lines += [
                f"    def test_{number}(self):",
                f"        self.assertEqual({expression}, {expected})",
                "",
            ]
        return "\n".join(lines)


TASKS = (
    Task(
        "median",
        "def median(values):\n    ordered = sorted(values)\n    half = len(ordered) // 2\n    if len(ordered) % 2:\n"
        "        return ordered[half]\n    return (ordered[half - 1] + ordered[half]) / 2\n",
        "(ordered[half] + ordered[half + 1])",
        "(ordered[half - 1] + ordered[half])",
        (("median([3, 1, 2])", "2"), ("median([4, 1, 3, 2])", "2.5"), ("median([1, 2])", "1.5")),
    ),
    Task(
        "roman",
        'SIGNS = [(1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"),\n'
        '         (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")]\n\n\ndef roman(number):\n    text = ""\n'
        "    for value, sign in SIGNS:\n        while number >= value:\n            text += sign\n            number -= value\n"
        "    return text\n",
        "while number > value:",
        "while number >= value:",
        (("roman(4)", '"IV"'), ("roman(1994)", '"MCMXCIV"'), ("roman(1)", '"I"')),
    ),
    Task(
        "slug",
        'import re\n\n\ndef slug(title):\n    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")\n',
        'title).strip("-")',
        'title.lower()).strip("-")',
        (
            ('slug("Hello, World!")', '"hello-world"'),
            ('slug("  A  b ")', '"a-b"'),
            ('slug("x")', '"x"'),
        ),
    ),
    Task(
        "leap",
        "def is_leap(year):\n    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)\n",
        "year % 4 == 0 and year % 100 != 0",
        "year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)",
        (
            ("is_leap(2000)", "True"),
            ("is_leap(1900)", "False"),
            ("is_leap(2024)", "True"),
            ("is_leap(2023)", "False"),
        ),
    ),
    Task(
        "chunks",
        "def chunks(items, size):\n    return [items[i:i + size] for i in range(0, len(items), size)]\n",
        "range(0, len(items) - size, size)",
        "range(0, len(items), size)",
        (
            ("chunks([1, 2, 3], 2)", "[[1, 2], [3]]"),
            ("chunks([], 3)", "[]"),
            ("chunks([1, 2], 2)", "[[1, 2]]"),
        ),
    ),
    Task(
        "bag",
        "class Bag:\n    def __init__(self, items=None):\n        self.items = list(items or [])\n\n"
        "    def add(self, item):\n        self.items.append(item)\n        return self.items\n",
        "def __init__(self, items=[]):\n        self.items = items\n",
        "def __init__(self, items=None):\n        self.items = list(items or [])\n",
        (("Bag().add(1)", "[1]"), ("Bag().add(2)", "[2]"), ("Bag([1]).add(2)", "[1, 2]")),
    ),
    Task(
        "interval",
        "def overlap(a, b):\n    start, end = max(a[0], b[0]), min(a[1], b[1])\n"
        "    return (start, end) if start < end else None\n",
        "min(a[0], b[0]), max(a[1], b[1])",
        "max(a[0], b[0]), min(a[1], b[1])",
        (
            ("overlap((0, 5), (3, 9))", "(3, 5)"),
            ("overlap((0, 1), (2, 3))", "None"),
            ("overlap((1, 9), (2, 3))", "(2, 3)"),
        ),
    ),
    Task(
        "search",
        "def find(items, wanted):\n    low, high = 0, len(items)\n    while low < high:\n        middle = (low + high) // 2\n"
        "        if items[middle] < wanted:\n            low = middle + 1\n        else:\n            high = middle\n"
        "    return low if low < len(items) and items[low] == wanted else -1\n",
        "high = middle - 1\n",
        "high = middle\n",
        (
            ("find([1, 3, 5], 1)", "0"),
            ("find([1, 3, 5], 3)", "1"),
            ("find([1, 3, 5], 4)", "-1"),
            ("find([], 1)", "-1"),
        ),
    ),
    Task(
        "money",
        'def format_cents(cents):\n    sign = "-" if cents < 0 else ""\n    whole, rest = divmod(abs(cents), 100)\n'
        '    return f"{sign}{whole}.{rest:02d}"\n',
        "{whole}.{rest}",
        "{whole}.{rest:02d}",
        (
            ("format_cents(105)", '"1.05"'),
            ("format_cents(-250)", '"-2.50"'),
            ("format_cents(1234)", '"12.34"'),
        ),
    ),
    Task(
        "words",
        "def count(text):\n    found = {}\n    for word in text.split():\n        found[word] = found.get(word, 0) + 1\n"
        "    return found\n",
        "found[word] = 1",
        "found[word] = found.get(word, 0) + 1",
        (('count("a b a")', '{"a": 2, "b": 1}'), ('count("")', "{}"), ('count("x")', '{"x": 1}')),
    ),
)
