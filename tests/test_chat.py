"""Conversations for trainers of chat models, and the tokens of what the model said."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import dialect_bodies as bodies
import pytest
from test_messages import STORY, assistant, chat, send, user

import trajrec
from trajrec.corpus.chat import Conversation


def talks(folder: Path) -> list[Conversation]:
    trajrec.close_logs()
    with trajrec.open(folder) as corpus:
        return list(corpus.messages())


def story(talk: Conversation) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in talk.messages]


def paid(state: dict[str, bool]) -> bool:
    return state["paid"]


def test_a_conversation_is_its_last_request_with_the_answer(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, task="refund-1") as ep:
        send(ep, {"messages": [user("a")]}, chat("b"))
        send(ep, {"messages": [user("a"), assistant("b"), user("c")]}, chat("d"))
        ep.check(paid, {"paid": True})
    (talk,) = talks(tmp_path)
    assert story(talk) == [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    assert (talk.answers, talk.omitted, talk.source) == ([1, 3], [], "model calls")
    assert (talk.task, talk.outcome) == ("refund-1", "success")
    (check,) = talk.checks
    assert check["verdict"] is True
    assert json.loads(json.dumps(talk.as_dict() | {"total_reward": 0}))["answers"] == [1, 3]


def test_conversations_of_several_agents_are_not_mixed(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        send(ep, {"messages": [user("a")]}, chat("b"))
        send(ep, {"messages": [user("x")]}, chat("y"))
        send(ep, {"messages": [user("a"), assistant("b"), user("c")]}, chat("d"))
        send(ep, {"messages": [user("x"), assistant("y"), user("z")]}, chat("w"))
    found = [[text for _, text in story(talk)] for talk in talks(tmp_path)]
    assert found == [["a", "b", "c", "d"], ["x", "y", "z", "w"]]


@pytest.mark.slow
def test_an_answer_that_was_sampled_twice_goes_on_once(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        send(ep, {"messages": [user("a")]}, chat("b1"))
        send(ep, {"messages": [user("a")]}, chat("b2"))
        send(ep, {"messages": [user("a"), assistant("b2"), user("c")]}, chat("d"))
        # The client has changed an answer: nobody said it.
        send(ep, {"messages": [user("a"), assistant("b9"), user("c")]}, chat("e"))
    found = talks(tmp_path)
    assert [[text for _, text in story(talk)] for talk in found] == [
        ["a", "b1"],
        ["a", "b2", "c", "d"],
        ["a", "b9", "c", "e"],
    ]
    assert [talk.answers for talk in found] == [[1], [1, 3], [3]]


@pytest.mark.slow
def test_an_answer_that_failed_is_no_message(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        send(ep, {"messages": [user("a")]}, {"error": {"message": "busy"}}, status=500)
        send(ep, {"messages": [user("a")]}, chat("b"))
    (talk,) = talks(tmp_path)
    assert story(talk) == [("user", "a"), ("assistant", "b")]


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("dialect", STORY)
def test_calls_and_results_are_those_of_each_dialect(tmp_path: Path, dialect: str) -> None:
    url, request, _ = STORY[dialect]
    with trajrec.episode(tmp_path) as ep:
        send(ep, copy.deepcopy(request), bodies.ANSWERS[dialect], url=url)
    (talk,) = talks(tmp_path)
    calls = [call for message in talk.messages for call in message.get("tool_calls", ())]
    assert calls
    for call in calls:
        assert call["type"] == "function"
        assert call["function"]["name"]
        assert isinstance(call["function"]["arguments"], str)
    results = [message for message in talk.messages if message["role"] == "tool"]
    assert results
    assert all(result["name"] for result in results)
    assert all(tool["function"]["name"] for tool in talk.tools)
    assert talk.tools
    assert talk.answers[-1] == len(talk.messages) - 1


@pytest.mark.slow
def test_images_are_left_out_and_named(tmp_path: Path) -> None:
    blocks = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "x"}}]
    with trajrec.episode(tmp_path) as ep:
        send(ep, {"messages": [{"role": "user", "content": blocks}]}, chat("b"))
    (talk,) = talks(tmp_path)
    assert (story(talk)[0], talk.omitted) == (("user", "see"), [0])


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("message", "omitted"),
    [
        ({"role": "user", "parts": [{"text": "a"}, {"inlineData": {"data": "AA"}}]}, [0]),
        ({"role": "user", "content": "a", "images": ["AA"]}, [0]),
        ({"role": "user", "content": [{"text": "a"}, {"image": {"format": "png"}}]}, [0]),
        ({"role": "user", "content": [{"text": "a"}, {"cachePoint": {"type": "default"}}]}, []),
        ({"role": "assistant", "content": "a", "reasoning_content": "b"}, [0]),
        ({"type": "reasoning", "summary": []}, [0]),
    ],
)
def test_images_and_reasoning_of_any_dialect_are_named(
    tmp_path: Path, message: dict[str, Any], omitted: list[int]
) -> None:
    with trajrec.episode(tmp_path) as ep:
        ep.model(lambda **_: chat("b"), messages=[message])
    (talk,) = talks(tmp_path)
    assert talk.omitted == omitted


PICTURE = "iVBORw0KGgo" + "A" * 100


@pytest.mark.parametrize(
    "message",
    [
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "c",
                    "content": [{"type": "image", "source": {"type": "base64", "data": PICTURE}}],
                }
            ],
        },
        {
            "type": "function_call_output",
            "call_id": "c",
            "output": [{"type": "input_image", "image_url": PICTURE}],
        },
        {
            "type": "computer_call_output",
            "call_id": "c",
            "output": {"type": "computer_screenshot", "image_url": PICTURE},
        },
        {
            "role": "tool",
            "tool_call_id": "c",
            "content": [{"type": "image_url", "image_url": {"url": PICTURE}}],
        },
        {
            "role": "user",
            "parts": [
                {
                    "functionResponse": {
                        "name": "look",
                        "response": {"output": ""},
                        "parts": [{"inlineData": {"data": PICTURE}}],
                    }
                }
            ],
        },
    ],
    ids=["anthropic", "responses", "computer", "chat", "gemini"],
)
def test_a_result_that_is_a_picture_has_no_text(tmp_path: Path, message: dict[str, Any]) -> None:
    with trajrec.episode(tmp_path) as ep:
        ep.model(lambda **_: chat("b"), messages=[{"role": "user", "content": "a"}, message])
    (talk,) = talks(tmp_path)
    assert (talk.messages[1]["role"], talk.messages[1]["content"]) == ("tool", "")
    assert talk.omitted == [1]
    with trajrec.open(tmp_path) as corpus:
        texts = corpus.sql("SELECT text, n_chars FROM messages WHERE role = 'tool'").fetchall()
    assert texts == [("", 0)]


def test_results_that_are_other_pictures_are_other_messages(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "a"}
    with trajrec.episode(tmp_path) as ep:
        for data in ("AA", "BB"):
            picture = {"type": "image_url", "image_url": {"url": data}}
            result = {"role": "tool", "content": [picture]}
            ep.model(lambda **_: chat("b"), messages=[asked, result])
    assert [talk.omitted for talk in talks(tmp_path)] == [[1], [1]]
    with trajrec.open(tmp_path) as corpus:
        rows = corpus.sql("SELECT count(*) FROM messages WHERE role = 'tool'").fetchall()
    assert rows == [(2,)]


def test_omitted_parts_of_an_answer_name_its_row(tmp_path: Path) -> None:
    text = {"type": "text", "text": "see"}
    image = {"type": "image", "source": {}}
    result = {"type": "tool_result", "tool_use_id": "c", "content": [text, image]}
    thought = {"type": "thinking", "thinking": "b"}
    answer = {"role": "assistant", "content": [thought, text], "stop_reason": "end_turn"}
    with trajrec.episode(tmp_path) as ep:
        for content in ([result, text], [{**result, "content": "4"}, text, image]):
            ep.model(lambda **_: answer, messages=[{"role": "user", "content": content}])
    first, second = talks(tmp_path)
    assert [message["role"] for message in first.messages] == ["tool", "user", "assistant"]
    assert (first.omitted, second.omitted) == ([0, 2], [1, 2])


@pytest.mark.slow
def test_calls_of_tools_alone_are_a_conversation(tmp_path: Path) -> None:
    def stock(item: str) -> int:
        if item == "fig":
            raise KeyError("no figs")
        return 3

    with trajrec.episode(tmp_path, goal="Count the apples.") as ep:
        tool = ep.tool(stock)
        tool(item="apple")
        with pytest.raises(KeyError):
            tool(item="fig")
    (talk,) = talks(tmp_path)
    assert talk.source == "tool calls"
    roles = [message["role"] for message in talk.messages]
    assert roles == ["user", "assistant", "tool", "assistant", "tool"]
    assert talk.messages[0]["content"] == "Count the apples."
    call = talk.messages[1]["tool_calls"][0]
    assert (call["id"], call["function"]["arguments"]) == (
        talk.messages[2]["tool_call_id"],
        '{"item":"apple"}',
    )
    assert "no figs" in talk.messages[4]["content"]
    assert talk.answers == [1, 3]


class Letters:
    """A tokenizer of letters with a chat template."""

    def __init__(self, *, forgets: bool = False, drops: str = "") -> None:
        self.forgets = forgets
        self.drops = drops

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> list[int]:
        assert options["tokenize"]
        parts = []
        for number, message in enumerate(conversation):
            is_last = number == len(conversation) - 1
            text = message["content"].replace(self.drops, "") if self.drops else message["content"]
            thought = "(thinking)" if self.forgets and is_last else ""
            parts.append(f"<{message['role']}>{thought}{text}</>")
        if options["add_generation_prompt"]:
            parts.append("<assistant>")
        return list(map(ord, "".join(parts)))

    def decode(self, tokens: Any) -> str:
        return "".join(map(chr, tokens))


def test_token_spans_hold_the_answers_and_nothing_else(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        send(ep, {"messages": [user("a")]}, chat("bee"))
        send(ep, {"messages": [user("a"), assistant("bee"), user("c")]}, chat("dee"))
    (talk,) = talks(tmp_path)
    tokenizer = Letters()
    tokens, spans = talk.token_spans(tokenizer)
    assert tokenizer.decode(tokens) == "<user>a</><assistant>bee</><user>c</><assistant>dee</>"
    assert [tokenizer.decode(tokens[a:b]) for a, b in spans] == ["bee</>", "dee</>"]
    with pytest.raises(ValueError, match="message 1: the chat template writes it otherwise"):
        talk.token_spans(Letters(forgets=True))
    with pytest.raises(ValueError, match=r"message 1: .* do not say its text"):
        talk.token_spans(Letters(drops="e"))
