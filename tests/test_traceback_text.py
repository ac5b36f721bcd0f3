"""The text of an error is Python's own, also where it is made faster."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest

from trajrec.recording import traceback_text
from trajrec.recording.traceback_text import format_traceback


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def nested(depth: int) -> None:
    if depth:
        return nested(depth - 1)
    raise ValueError("deep")


def chained(cause: bool) -> None:
    try:
        nested(1)
    except ValueError as exc:
        if cause:
            raise KeyError("later") from exc
        raise KeyError("while it was handled")  # noqa: B904


def hidden() -> None:
    try:
        nested(0)
    except ValueError:
        raise OSError(2, "no such file") from None


def noted() -> None:
    exc = ValueError("with a note")
    exc.add_note("the note")
    raise exc


def misspelt() -> None:
    "text".uper()  # type: ignore[attr-defined]


def grouped() -> None:
    raise ExceptionGroup("several", [ValueError("a"), KeyError("b")])


def syntax() -> None:
    compile("a b", "file.py", "exec")


def cycle() -> None:
    one = ValueError("one")
    two = KeyError("two")
    one.__context__ = two
    two.__context__ = one
    raise one


def own(exc: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise exc

    return fail


CASES: dict[str, Callable[[], Any]] = {
    "a plain error": lambda: nested(0),
    "four frames of one line": lambda: nested(2),
    "a recursion": lambda: nested(30),
    "a deep recursion": lambda: nested(200),
    "a cause": lambda: chained(True),
    "a context": lambda: chained(False),
    "a hidden context": hidden,
    "a note": noted,
    "a suggestion": misspelt,
    "a group": grouped,
    "a syntax error": syntax,
    "a cycle": cycle,
    "no message": own(ValueError()),
    "several lines": own(ValueError("one\ntwo")),
    "an error of a package": own(pytest.UsageError("used")),
    "an interrupt": own(KeyboardInterrupt()),
    "an exit": own(SystemExit(3)),
    "no text": own(Odd()),
    "marked parts": lambda: (lambda a: a["x"]["y"])({"x": 1}),
}


@pytest.mark.parametrize("fail", CASES.values(), ids=CASES)
def test_text_of_an_error_is_that_of_python(fail: Callable[[], Any]) -> None:
    for _ in range(3):
        caught = None
        try:
            fail()
        except BaseException as exc:
            caught = exc
        assert caught is not None
        assert "".join(format_traceback(caught)) == "".join(traceback.format_exception(caught))


def test_error_that_was_never_raised_has_no_frames() -> None:
    exc = ValueError("new")
    assert "".join(format_traceback(exc)) == "".join(traceback.format_exception(exc))


def test_cached_frames_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traceback_text, "_MAX_CACHED", 5)
    for k in range(50):
        namespace: dict[str, Any] = {}
        exec(f"def fail():\n    raise ValueError({k})", namespace)
        with pytest.raises(ValueError, match=str(k)) as caught:
            namespace["fail"]()
        text = "".join(format_traceback(caught.value))
        assert text == "".join(traceback.format_exception(caught.value))
    assert len(traceback_text._frame_texts) <= 5


def test_copies_of_a_module_keep_their_own_paths() -> None:
    for path in ("/one/plugin.py", "/two/plugin.py"):
        names: dict[str, Any] = {}
        exec(compile("def act():\n    raise ValueError('x')\n", path, "exec"), names)
        with pytest.raises(ValueError, match="x") as raised:
            names["act"]()
        assert format_traceback(raised.value).frames.count(path) == 1
