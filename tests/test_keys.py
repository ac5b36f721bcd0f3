"""Keys of requests, and the nearest recorded request."""

from __future__ import annotations

import copy
import json
import random
import re
from typing import Any

import pytest
from dialect_bodies import REQUESTS, changed, damaged, dump
from tiers import Share, suite

from trajrec.values.diff import MISSING
from trajrec.wire.keys import Nearest, RequestKeys, nearest

DIALECTS = sorted(REQUESTS)
DATE = re.compile(r"\d{4}-\d\d-\d\d")


def keys(value: Any, url: str = "https://x/v1/chat/completions", *ignore: Any) -> RequestKeys:
    return RequestKeys(url, value if isinstance(value, bytes) else dump(value), ignore)


def levels(a: RequestKeys, b: RequestKeys) -> tuple[bool, bool, bool]:
    """Return whether two requests have the same keys, from the strongest to the weakest."""
    return a.exact == b.exact, a.canonical == b.canonical, a.loose == b.loose


NONE = (False, False, False)
LOOSE = (False, False, True)
CANONICAL = (False, True, True)
EXACT = (True, True, True)


@pytest.mark.parametrize("name", DIALECTS)
def test_order_of_keys_spaces_and_nulls_do_not_count(name: str) -> None:
    url, value = REQUESTS[name]
    text = json.dumps({**value, "seed": None}, sort_keys=True, indent=1).encode()
    assert levels(keys(value, url), keys(text, url)) == CANONICAL
    assert levels(keys(value, url), keys(value, url)) == EXACT


@pytest.mark.parametrize(
    "member",
    ["metadata", "prompt_cache_key", "safety_identifier", "store", "stream_options", "user"],
)
def test_member_that_no_model_sees_counts_only_for_the_stronger_keys(member: str) -> None:
    value = REQUESTS["chat"][1]
    assert levels(keys(value), keys({**value, member: {"a": 1}})) == LOOSE
    inner = {**value, "messages": [{"role": "user", member: "x"}]}
    assert levels(keys({**value, "messages": [{"role": "user"}]}), keys(inner)) == NONE


RENAMED = {"call_": "call_x", "fc_": "fc_y", "toolu_": "toolu_z", "tooluse_": "w", "msg_": "m"}


@pytest.mark.parametrize("name", DIALECTS)
def test_other_ids_in_the_same_order_give_the_same_loose_key(name: str) -> None:
    url, value = REQUESTS[name]
    text = json.dumps(value)
    for old, new in RENAMED.items():
        text = re.sub(rf'"{old}(?=\d)', f'"{new}', text)
    text = text.replace('"rs_1"', '"rs_9"').replace('"resp_0"', '"resp_8"')
    other = json.loads(text)
    has_ids = name not in ("gemini", "ollama")
    assert levels(keys(value, url), keys(other, url)) == (LOOSE if has_ids else EXACT)


@pytest.mark.parametrize("name", ["chat", "responses", "anthropic", "bedrock"])
def test_results_under_each_others_ids_give_another_key(name: str) -> None:
    url, value = REQUESTS[name]
    messages = "input" if name == "responses" else "messages"
    text = json.dumps(value[messages][-2:])
    ids = sorted({*re.findall(r'"((?:call|toolu|tooluse)_\d)"', text)})
    assert len(ids) == 2
    if name in ("anthropic", "bedrock"):
        last = json.dumps(value[messages][-1])
        swapped = last.replace(ids[0], "@").replace(ids[1], ids[0]).replace("@", ids[1])
        tail = [value[messages][-2], json.loads(swapped)]
    else:
        swapped = text.replace(ids[0], "@").replace(ids[1], ids[0]).replace("@", ids[1])
        tail = json.loads(swapped)
    other = {**value, messages: [*value[messages][:-2], *tail]}
    assert levels(keys(value, url), keys(other, url)) == NONE


@pytest.mark.parametrize(
    "value",
    [
        {"input": [{"type": "tool_use", "id": "t", "name": "look", "input": {"id": "O1"}}]},
        {"messages": [{"role": "user", "content": "id O1"}]},
        {"contents": [{"parts": [{"functionCall": {"name": "look", "args": {"id": "O1"}}}]}]},
        {"messages": [{"content": [{"toolResult": {"content": [{"json": {"id": "O1"}}]}}]}]},
        {"prompt": {"id": "O1"}},
        {"messages": [{"role": "user", "customer": {"id": "O1"}}]},
        {"tools": [{"type": "function", "name": "look", "id": "O1"}]},
        {"messages": ["O1"]},
        {"model": "O1"},
    ],
)
def test_id_of_the_agents_own_things_counts(value: Any) -> None:
    other = json.loads(json.dumps(value).replace("O1", "O2"))
    assert levels(keys(value), keys(other)) == NONE


@pytest.mark.parametrize("name", DIALECTS)
def test_any_other_change_gives_other_keys(name: str) -> None:
    url, value = REQUESTS[name]
    rng = random.Random(name)
    for _ in range(40):
        other = copy.deepcopy(value)
        holder, key = rng.choice([site for site in leaves(other) if not is_id(site)])
        holder[key] = f"{holder[key]} changed"
        assert levels(keys(value, url), keys(other, url)) == NONE, key


def leaves(value: Any) -> list[tuple[Any, Any]]:
    """Return each leaf of a value as its holder and key."""
    found = []
    for key in value if isinstance(value, dict) else range(len(value)):
        if isinstance(value[key], (dict, list)):
            found += leaves(value[key])
        elif value[key] is not None:
            found.append((value, key))
    return found


def is_id(site: tuple[Any, Any]) -> bool:
    return isinstance(site[1], str) and site[1].lower().endswith("id")


def test_server_and_query_do_not_count_but_the_model_does() -> None:
    body = dump(REQUESTS["chat"][1])
    direct = keys(body, "https://api.openai.com/v1/chat/completions")
    proxied = keys(body, "http://127.0.0.1:9999/e/one/openai/v1/chat/completions?a=1")
    assert levels(direct, proxied) == EXACT
    base = "https://x/v1beta/models/"
    one = keys(body, f"{base}gemini-2.5-flash:generateContent")
    assert levels(one, keys(body, f"{base}gemini-2.5-pro:generateContent")) == NONE
    assert levels(one, keys(body, f"{base}gemini-2.5-flash:streamGenerateContent")) == NONE
    assert levels(direct, keys(body, "https://api.openai.com/v1/responses")) == NONE


def test_ignored_dates_do_not_count() -> None:
    def request(text: str) -> dict[str, Any]:
        return {"model": "m", "messages": [{"role": "user", "content": f"Today is {text}."}]}

    one = keys(request("2026-11-26"), "https://x/messages", DATE)
    assert levels(one, keys(request("2026-11-27"), "https://x/messages", DATE)) == CANONICAL
    assert levels(one, keys(request("unknown"), "https://x/messages", DATE)) == NONE
    assert levels(one, keys(request(""), "https://x/messages", DATE)) == NONE
    assert levels(keys(request("2026-11-26")), keys(request("2026-11-27"))) == NONE


@pytest.mark.parametrize("body", [b"", b"hello", b"[1]", b'"x"', b"{", b"\xff", b'{"a":"\\ud800"}'])
def test_any_body_has_keys(body: bytes) -> None:
    assert levels(keys(body), keys(body)) == EXACT
    assert levels(keys(body), keys(body + b"!")) == NONE
    assert nearest(body, [body]) == (0, ())


def changes(result: Nearest) -> list[tuple[str, Any, Any]]:
    """Return the pointers of the differences, with the values on both sides."""
    pairs = zip(result.pointers, result.changes, strict=True)
    return [(pointer, change.before, change.after) for pointer, change in pairs]


def test_nearest_names_the_leaf_that_differs() -> None:
    value = REQUESTS["chat"][1]
    other = copy.deepcopy(value)
    other["messages"][0]["content"] = "You are a changed agent."  # type: ignore[index]
    bodies = [dump({"messages": []}), dump(value), dump({**value, "model": "other"})]
    result = nearest(dump({**other, "user": "me"}), bodies)
    assert result is not None
    assert result.number == 1
    assert changes(result) == [("/messages/0/content", "You help.", "You are a changed agent.")]


def test_nearest_names_added_and_removed_members() -> None:
    recorded = dump({"messages": [{"role": "user"}], "tools": [1, 2]})
    now = dump({"messages": [{"role": "user"}, {"role": "x"}], "tools": [2, 1], "seed": None})
    result = nearest(now, [recorded])
    assert result is not None
    assert changes(result) == [
        ("/messages/1", MISSING, {"role": "x"}),
        ("/tools/0", 1, 2),
        ("/tools/1", 2, 1),
    ]


def test_nearest_of_many_conversations_is_the_one_that_goes_on_alike() -> None:
    rng = random.Random(7)

    def conversation(seed: int, n_turns: int) -> dict[str, Any]:
        turns = random.Random(seed)
        texts = [f"{turns.random()} {turns.random()}" for _ in range(n_turns)]
        return {"model": "m", "messages": [{"role": "user", "content": text} for text in texts]}

    recorded = [conversation(seed, n) for seed in range(20) for n in (3, 6, 9)]
    for _ in range(30):
        number = rng.randrange(len(recorded))
        changed = copy.deepcopy(recorded[number])
        changed["messages"][-1]["content"] += " now"
        result = nearest(dump(changed), [dump(one) for one in recorded])
        assert result is not None
        assert result.number == number
        last = len(changed["messages"]) - 1
        assert result.pointers == [f"/messages/{last}/content"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "null", "0", "-0.0", "0.0"])
def test_numbers_that_json_lacks_are_told_apart(number: str) -> None:
    texts = {"NaN", "Infinity", "-Infinity", "null", "0", "-0.0", "0.0", '"NaN"'} - {number}
    one = keys(f'{{"input": [{number}]}}'.encode())
    for text in texts:
        assert levels(one, keys(f'{{"input": [{text}]}}'.encode())) == NONE


@suite("hostile", fixed=300, drawn=1_500, whole=30_000)
def test_changed_bodies_have_keys_and_a_nearest(share: Share) -> None:
    rng = random.Random(share.seed)
    for _ in range(share.size or 0):
        url, value = REQUESTS[rng.choice(DIALECTS)]
        body = damaged(rng, json.dumps(changed(rng, value)).encode())
        one = RequestKeys(url, body, [DATE])
        assert len({*map(len, (one.exact, one.canonical, one.loose))}) == 1
        result = nearest(body, [dump(value), body], [DATE])
        assert result is not None
        assert result.number == 1 or not result.changes
        nested = b'{"messages":' * 126 + b"[]" + b"}" * 126
        assert nearest(nested, [body], [DATE]) is not None


def test_nearest_of_none_is_none() -> None:
    assert nearest(b"{}", []) is None


def test_nearest_of_text_compares_it_whole() -> None:
    result = nearest(b"hello", [b'{"a": 1, "b": 2}', b"help"])
    assert result is not None
    assert result.number == 1
    assert changes(result) == [("", "help", "hello")]


def test_long_prompt_that_changed_a_little_is_nearer_than_none() -> None:
    prompt = "You are careful. " * 200
    messages = [{"role": "system", "content": prompt}, {"role": "user", "content": "hi"}]
    recorded = [{"messages": messages[1:]}, {"messages": messages}]
    now = {
        "messages": [{"role": "system", "content": prompt.upper()[:9] + prompt[9:]}, messages[1]]
    }
    result = nearest(dump(now), [dump(one) for one in recorded])
    assert result is not None
    assert result.number == 1
    assert result.pointers == ["/messages/0/content"]
