"""Agents with models as policies: recorded answers are played back, and only later ones are asked for."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import trajrec
from trajrec.agents.context import open_episodes
from trajrec.agents.routing import router
from trajrec.corpus.chat import conversations, decisions
from trajrec.corpus.episode import Episode
from trajrec.envs import Bank
from trajrec.errors import AgentDivergedError, RedactedError
from trajrec.protocols import Tool
from trajrec.recording.event_log import close_logs
from trajrec.replay import credit, fork
from trajrec.replay.credit.forms import MessageForm, TextForm
from trajrec.replay.credit.sampling.context import Recording
from trajrec.replay.credit.texts import prompt_text
from trajrec.wire.exchange import HttpRequest


class Model:
    """Answers 50 or 150 with equal probability; counts its calls."""

    def __init__(self, seed: int = 0) -> None:
        self.drawn = random.Random(seed)
        self.n_asked = 0

    def __call__(self, *, messages: list[dict[str, str]]) -> dict[str, str]:
        self.n_asked += 1
        if "amount" not in messages[-1]["content"]:
            return {"role": "assistant", "content": "go on"}
        return {"role": "assistant", "content": str(self.drawn.choice([50, 150]))}

    def stream(self, *, messages: list[dict[str, str]]) -> Iterator[str]:
        yield from self(messages=messages)["content"]


def agent_of(
    ask: Callable[..., Any], amount: Callable[[Any], int] | None = None
) -> Callable[[Any], None]:
    """Return an agent that asks a model before each call, with the whole conversation."""

    def agent(ep: Any) -> None:
        messages = [{"role": "user", "content": ep.goal}]
        for what in ("deposit", "what amount?", "withdraw"):
            messages.append({"role": "user", "content": what})
            answer = ep.model(ask, messages=list(messages))
            text = answer["content"] if isinstance(answer, dict) else "".join(answer)
            messages.append({"role": "assistant", "content": text})
            if what == "deposit":
                ep.call("deposit", amount=100)
            elif what == "withdraw":
                ep.call("withdraw")
            else:
                ep.call("choose", amount=int(text))
        ep.stop("done")

    return agent


def record(folder: Path, agent: Callable[[Any], None], world: Any = None) -> Episode:
    with trajrec.episode(folder, task="t", world=world or Bank(), goal="take money out") as ep:
        agent(ep)
    close_logs()
    return trajrec.open(folder).episode(ep.id)


def lost(
    folder: Path, ask: Callable[[Model], Callable[..., Any]] = lambda model: model
) -> tuple[Episode, Model]:
    """Record an episode in which the model answers 150."""
    for seed in range(10):
        model = Model(seed)
        episode = record(folder, agent_of(ask(model)))
        if episode.transcript.attempts[1].arguments == {"amount": 150}:
            return episode, model
    raise AssertionError


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("how", ["answer", "stream"])
def test_a_recorded_answer_is_never_asked_for_again(tmp_path: Path, how: str) -> None:
    ask = (lambda model: model) if how == "answer" else (lambda model: model.stream)
    episode, model = lost(tmp_path, ask)  # type: ignore[arg-type]
    policy = credit.AgentPolicy(agent_of(ask(model)), is_seeded=False)  # type: ignore[no-untyped-call]
    for step, n_asked in ((0, 3), (1, 2), (2, 1)):
        model.n_asked = 0
        (row,) = credit.estimate(episode, policy, estimator="value", steps=[step], n_rollouts=8)
        assert model.n_asked == 8 * n_asked
        assert row.noise == "fresh"
        assert row.value == 0 if step > 1 else 0 <= row.value <= 1


def test_an_agent_that_keeps_its_episodes_answers_no_later_requests(tmp_path: Path) -> None:
    kept = []

    def agent(ep: Any) -> None:
        kept.append(ep)
        ep.call("deposit", amount=100)
        ep.call("choose", amount=50)
        ep.call("withdraw")

    episode = record(tmp_path, agent)
    credit.estimate(episode, credit.AgentPolicy(agent), steps=[1], n_rollouts=2)
    assert len(kept) > 1
    assert open_episodes() == []
    body = b'{"messages": [{"role": "user", "content": "Where?"}]}'
    with trajrec.capture(tmp_path / "later"):
        assert router.begin(HttpRequest("POST", "http://h/v1/chat/completions", [], body))
    with trajrec.open(tmp_path / "later") as corpus:
        assert len(list(corpus.episodes())) == 1


@pytest.mark.slow
def test_the_decisive_answer_is_named_with_its_probability(tmp_path: Path) -> None:
    episode, model = lost(tmp_path)
    policy = credit.AgentPolicy(agent_of(model), is_seeded=False)
    decision = credit.decisive_step(episode, policy, n_rollouts=32)
    assert decision.step == 1
    table = credit.estimate(episode, policy, n_rollouts=64)
    by_step = {row.step: row for row in table.of("advantage")}
    assert by_step[1].ci_low < -0.5 < by_step[1].ci_high
    assert by_step[0].ci_low <= 0 <= by_step[0].ci_high
    assert by_step[2].value == 0


def test_an_agent_with_a_model_counts_as_unseeded(tmp_path: Path) -> None:
    episode, model = lost(tmp_path)
    table = credit.estimate(
        episode, credit.AgentPolicy(agent_of(model)), estimator="value", steps=[0], n_rollouts=4
    )
    assert {row.noise for row in table} == {"fresh"}


def test_a_model_that_only_seems_seeded_is_noticed(tmp_path: Path) -> None:
    episode, model = lost(tmp_path)
    table = credit.estimate(
        episode,
        credit.AgentPolicy(agent_of(model), is_seeded=True),
        estimator="value",
        steps=[0],
        n_rollouts=16,
    )
    assert {row.noise for row in table} == {"fresh"}


def test_a_model_with_fixed_answers_keeps_shared_noise(tmp_path: Path) -> None:
    def sure(*, messages: list[dict[str, str]]) -> dict[str, str]:
        return {
            "role": "assistant",
            "content": "150" if "amount" in messages[-1]["content"] else "go on",
        }

    episode = record(tmp_path, agent_of(sure))
    table = credit.estimate(
        episode, credit.AgentPolicy(agent_of(sure), is_seeded=True), n_rollouts=4
    )
    assert {row.noise for row in table} == {"shared"}
    assert all(row.value == 0 for row in table.of("advantage"))


def test_only_calls_of_the_agent_itself_can_be_continued(
    tmp_path: Path,
) -> None:
    episode, model = lost(tmp_path)
    policy = credit.AgentPolicy(agent_of(model), is_seeded=False)
    with pytest.raises(
        AgentDivergedError, match="another call was made instead of the one that it asked for"
    ):
        credit.counterfactual(episode, policy, 1, action=("choose", {"amount": 50}), n_rollouts=4)
    table = credit.counterfactual(
        episode, policy, 1, by=credit.AgentPolicy(agent_of(model), is_seeded=False), n_rollouts=64
    )
    (other,) = table.of("substituted")
    assert other.ci_low < 0.5 < other.ci_high


def test_a_changed_request_is_reported_with_the_difference(tmp_path: Path) -> None:
    episode, model = lost(tmp_path)

    def polite(ep: Any) -> None:
        ep.model(model, messages=[{"role": "user", "content": "please"}])

    with pytest.raises(
        AgentDivergedError,
        match=r"model request 0 of the agent is not the recorded one: /messages/0/content",
    ):
        credit.estimate(
            episode, credit.AgentPolicy(polite), estimator="value", steps=[1], n_rollouts=2
        )


def test_model_errors_and_side_effects_are_played_back(tmp_path: Path) -> None:
    asked: list[str] = []

    def flaky(*, messages: list[Any]) -> dict[str, str]:
        asked.append("model")
        if asked.count("model") % 2:
            raise TimeoutError("busy")
        return {"content": "100"}

    def clock() -> float:
        asked.append("clock")
        return 12.5

    def agent(ep: Any) -> None:
        assert ep.side_effect("clock", clock) == 12.5
        for attempt in ep.attempts(3, on=TimeoutError):
            with attempt:
                answer = ep.model(flaky, messages=[{"role": "user", "content": "how much?"}])
        ep.call("deposit", amount=int(answer["content"]))
        ep.call("choose", amount=50)
        with ep.step():
            ep.call("withdraw")

    episode = record(tmp_path, agent)
    assert asked == ["clock", "model", "model"]
    table = credit.estimate(episode, credit.AgentPolicy(agent), estimator="value", n_rollouts=4)
    assert {row.value for row in table} == {1.0}
    n_asked = len(asked)
    credit.estimate(
        episode,
        credit.AgentPolicy(agent),
        estimator="value",
        steps=[episode.n_steps - 1],
        n_rollouts=4,
    )
    assert len(asked) == n_asked


def test_a_fake_client_gets_its_recorded_answers(tmp_path: Path) -> None:
    class Completions:
        def __init__(self) -> None:
            self.n_asked = 0

        def create(self, **request: Any) -> dict[str, Any]:
            self.n_asked += 1
            return {"choices": [{"message": {"content": "50"}}]}

    class Client:
        class chat:
            completions = Completions()

    client = Client()

    def agent(ep: Any) -> None:
        ep.call("deposit", amount=100)
        reply = ep.model(
            client.chat.completions.create,
            model="m",
            messages=[{"role": "user", "content": "amount?"}],
        )
        ep.call("choose", amount=int(reply["choices"][0]["message"]["content"]))
        with ep.step():
            ep.call("withdraw")

    episode = record(tmp_path, agent)
    Client.chat.completions.n_asked = 0
    (row,) = credit.estimate(
        episode,
        credit.AgentPolicy(agent),
        estimator="value",
        steps=[episode.n_steps - 1],
        n_rollouts=2,
    )
    assert (row.value, Client.chat.completions.n_asked) == (1.0, 0)


@pytest.mark.slow
def test_a_fork_of_an_agent_has_its_parents_history(tmp_path: Path) -> None:
    def sure(*, messages: list[dict[str, str]]) -> dict[str, str]:
        return {
            "role": "assistant",
            "content": "150" if "amount" in messages[-1]["content"] else "go on",
        }

    def other(*, messages: list[dict[str, str]]) -> dict[str, str]:
        return {
            "role": "assistant",
            "content": "50" if "AMOUNT" in messages[-1]["content"] else "go on",
        }

    def shouting(ep: Any) -> None:
        for what in ("deposit", "what AMOUNT?", "withdraw"):
            answer = ep.model(other, messages=[{"role": "user", "content": what}])
            ep.call(
                {"d": "deposit", "w": "choose"}[what[0]] if what != "withdraw" else what,
                **arguments[what](answer),
            )

    arguments: dict[str, Callable[[Any], dict[str, int]]] = {
        "deposit": lambda answer: {"amount": 100},
        "what AMOUNT?": lambda answer: {"amount": int(answer["content"])},
        "withdraw": lambda answer: {},
    }

    def calm(ep: Any) -> None:
        ep.model(sure, messages=[{"role": "user", "content": "deposit"}])
        ep.call("deposit", amount=100)
        ep.call(
            "choose",
            amount=int(
                ep.model(sure, messages=[{"role": "user", "content": "what amount?"}])["content"]
            ),
        )

    episode = record(tmp_path, calm)
    with trajrec.rerun(episode, on_difference="live", folder=tmp_path) as ep:
        shouting(ep)
    close_logs()
    fork = trajrec.open(tmp_path).episode(ep.id)
    assert (fork.first_step, fork.n_steps, fork.end_step) == (1, 2, 3)
    plan = [("deposit", {"amount": 100}), ("choose", {"amount": 50}), ("withdraw", {})]
    seen: list[int] = []

    def follow(context: Any) -> Any:
        seen.append(len(context.calls))
        return plan[len(context.calls)] if len(context.calls) < len(plan) else None

    assert {row.value for row in credit.estimate(fork, follow, n_rollouts=2).of("value")} == {1.0}
    assert min(seen) == 1
    table = credit.estimate(fork, credit.AgentPolicy(shouting), estimator="value", n_rollouts=2)
    assert {row.value for row in table} == {1.0}


def choosing(amount: int | None) -> Callable[[Any], None]:
    """Return an agent that chooses an amount whatever the model says; None for what it says."""

    def ask(*, messages: list[dict[str, str]]) -> dict[str, str]:
        return {"role": "assistant", "content": "150" if len(messages) > 2 else "go on"}

    def agent(ep: Any) -> None:
        messages = [{"role": "user", "content": ep.goal}]
        for what in ("deposit", "what amount?"):
            messages.append({"role": "user", "content": what})
            text = ep.model(ask, messages=list(messages))["content"]
            messages.append({"role": "assistant", "content": text})
            if what == "deposit":
                ep.call("deposit", amount=100)
            else:
                ep.call("choose", amount=amount or int(text))
        ep.call("withdraw")

    return agent


@pytest.mark.slow
def test_a_prompt_of_a_fork_has_its_parents_conversation(tmp_path: Path) -> None:
    parent = record(tmp_path, choosing(None))
    with trajrec.rerun(parent, on_difference="live", folder=tmp_path) as ep:
        choosing(50)(ep)
    close_logs()
    corpus = trajrec.open(tmp_path)
    parent = corpus.episode(parent.id)
    fork = corpus.episode(ep.id)
    assert fork.first_step == 1
    assert not any(call.start.step == 1 for call in fork.transcript.model_calls)
    chats = MessageForm()
    assert chats.prompt(fork) == chats.prompt(parent, 1)
    assert [message["content"] for message in chats.prompt(fork)][-1] == "what amount?"
    later = chats.prompt(fork, max(decisions(fork)))
    assert later[: len(chats.prompt(fork))] == chats.prompt(fork)
    assert [talk.messages[0] for talk in conversations(fork)] == [chats.prompt(parent)[0]]
    texts = TextForm()
    assert texts.prompt(fork) == texts.prompt(parent, 1)
    assert "deposit" in texts.prompt(fork)
    assert texts.prompt(fork, 2).startswith(texts.prompt(fork))
    # A fork of the fork goes on from both.
    with trajrec.rerun(fork, on_difference="live", folder=tmp_path) as inner:
        choosing(70)(inner)
    close_logs()
    second = trajrec.open(tmp_path).episode(inner.id)
    assert MessageForm().prompt(second) == chats.prompt(parent, 1)


@pytest.mark.slow
def test_a_prompt_of_an_environments_fork_has_the_steps_before_it(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    env.reset(seed=1)
    for action in (0, 1, 0, 1):
        env.step(action)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        (parent,) = corpus.episodes()
        with fork(parent, at=2, folder=tmp_path) as branch:
            branch.step(1)
            branch.step(1)
    with trajrec.open(tmp_path) as corpus:
        (forked,) = corpus.episodes(kind="fork")
        prompt = prompt_text(forked)
        assert prompt == prompt_text(corpus.episode(parent.id), 2)
        assert len(prompt_text(forked, 3).splitlines()) == len(prompt.splitlines()) + 2


@pytest.mark.slow
def test_a_fork_inside_a_step_continues_that_step(tmp_path: Path) -> None:
    def model(*, messages: list[str]) -> str:
        return "go on"

    def agent_that_chooses(amount: int) -> Callable[[Any], None]:
        def agent(ep: Any) -> None:
            ep.model(model, messages=["all at once"])
            ep.call("deposit", amount=100)
            ep.call("choose", amount=amount)
            ep.call("withdraw")

        return agent

    episode = record(tmp_path, agent_that_chooses(150))
    with trajrec.rerun(episode, on_difference="live", folder=tmp_path) as ep:
        agent_that_chooses(50)(ep)
    close_logs()
    fork = trajrec.open(tmp_path).episode(ep.id)
    (row,) = credit.estimate(
        fork, credit.AgentPolicy(agent_that_chooses(50)), estimator="value", n_rollouts=2
    )
    assert (row.step, row.value) == (0, 1.0)
    assert fork.transcript.attempts[0].arguments == {"amount": 50}


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("has_model", [True, False])
def test_a_side_effect_belongs_to_the_call_after_it(tmp_path: Path, has_model: bool) -> None:
    drawn = random.Random(0)

    def model(*, messages: list[str]) -> str:
        return "go on"

    def agent(ep: Any) -> None:
        ep.call("deposit", amount=100)
        amount = ep.side_effect("draw", drawn.choice, [50, 150])
        if has_model:
            ep.model(model, messages=[str(amount)])
        ep.call("choose", amount=amount)
        with ep.step():
            ep.call("withdraw")

    while (episode := record(tmp_path, agent)).transcript.attempts[1].arguments != {"amount": 150}:
        continue
    before, after = credit.estimate(
        episode,
        credit.AgentPolicy(agent, is_seeded=False),
        estimator="value",
        steps=[1, 2],
        n_rollouts=32,
    )
    assert before.ci_low <= 0.5 <= before.ci_high
    assert after.value == 0.0


@pytest.mark.slow
def test_own_functions_are_answered_only_from_the_log(tmp_path: Path) -> None:
    called: list[str] = []

    def fee(order: str) -> int:
        called.append(order)
        return 50

    def agent_for(order: str) -> Callable[[Any], None]:
        def agent(ep: Any) -> None:
            ask = ep.tool(fee)
            ep.call("deposit", amount=100)
            try:
                amount = ask(order=order)
            except Exception:
                amount = 150
            ep.call("choose", amount=amount)
            ep.call("withdraw")

        return agent

    episode = record(tmp_path, agent_for("A"))
    table = credit.estimate(
        episode, credit.AgentPolicy(agent_for("A")), estimator="value", n_rollouts=2
    )
    assert {row.value for row in table} == {1.0}
    assert not any(row.n_invalid for row in table)
    (row,) = credit.estimate(
        episode, credit.AgentPolicy(agent_for("B")), estimator="value", steps=[0], n_rollouts=2
    )
    assert row.n_invalid == 2
    assert called == ["A"]

    def plain(ep: Any) -> None:
        ep.call("deposit", amount=100)
        ep.call("choose", amount=50)
        ep.call("withdraw")

    # Only the agent itself shows that the tool is a function: the recording has no such call.
    (row,) = credit.estimate(
        record(tmp_path, plain),
        credit.AgentPolicy(agent_for("A")),
        estimator="value",
        steps=[0],
        n_rollouts=2,
    )
    assert row.n_invalid == 2


def agent_of_calls(
    *calls: tuple[str, dict[str, Any]], before: Callable[[Any], Any] = lambda ep: None
) -> Callable[[Any], None]:
    def agent(ep: Any) -> None:
        before(ep)
        for tool, arguments in calls:
            ep.execute(tool, arguments)

    return agent


WON: list[tuple[str, dict[str, Any]]] = [
    ("deposit", {"amount": 100}),
    ("choose", {"amount": 50}),
    ("withdraw", {}),
]


def go_on(*, messages: list[Any]) -> str:
    return "go on"


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("how", ["bare except", "finally", "another error", "goes on"])
def test_an_agent_that_ignores_its_stop_keeps_its_first_call(tmp_path: Path, how: str) -> None:
    inner = agent_of_calls(*WON)

    def agent(ep: Any) -> None:
        try:
            inner(ep)
        except BaseException as exc:
            if how == "another error":
                raise KeyError(how) from exc
            if how == "goes on":
                ep.call("deposit", amount=-1000)
        finally:
            if how == "finally":
                ep.call("deposit", amount=7)

    episode = record(tmp_path, agent)
    table = credit.estimate(
        episode, credit.AgentPolicy(agent), estimator="value", n_rollouts=2, merge_rollouts=False
    )
    assert {row.value for row in table} == {1.0}
    assert not any(row.n_invalid for row in table)
    # Two rollouts from each step take the remaining steps, and one to stop.
    assert table.env_steps == 2 * sum(range(2, episode.n_steps + 2))


def test_a_divergence_that_the_agent_catches_is_raised(tmp_path: Path) -> None:
    episode = record(tmp_path, agent_of_calls(*WON))

    def other(ep: Any) -> None:
        for _ in range(3):
            try:
                ep.call("deposit", amount=1)
            except Exception:
                continue

    message = rf"episode {episode.id}: call 0 of the agent is deposit\(\{{'amount': 1\}}\), and was"
    with pytest.raises(AgentDivergedError, match=message):
        credit.estimate(
            episode, credit.AgentPolicy(other), estimator="value", steps=[1], n_rollouts=2
        )


def test_a_step_with_several_calls_is_one_rollout_step(tmp_path: Path) -> None:
    n_asked = 0

    def model(*, messages: list[Any]) -> str:
        nonlocal n_asked
        n_asked += 1
        return "go on"

    def agent(ep: Any) -> None:
        ep.model(model, messages=["think first"])
        ep.model(model, messages=["all at once"])
        for _ in range(15):
            ep.call("deposit", amount=10)
        with ep.step() as number:
            assert number == 2
            ep.call("choose", amount=50)
            ep.call("withdraw")
        assert ep.n_steps == 3
        ep.model(model, messages=["thank you"])

    episode = record(tmp_path, agent)
    assert episode.n_steps == 4
    n_asked = 0
    table = credit.estimate(episode, credit.AgentPolicy(agent, is_seeded=False), n_rollouts=2)
    assert {row.value for row in table.of("value")} == {1.0}
    assert not [note for note in table.notes if "cut" in note]
    # Two rollouts of two arms from each of four steps, and one step to stop.
    assert table.env_steps == 2 * 2 * (5 + 4 + 3 + 2)
    # The rollouts of values, and those after a recorded step.
    assert n_asked == 2 * (3 + 2 + 1 + 1) + 2 * (2 + 1 + 1)
    (row,) = credit.estimate(
        episode, credit.AgentPolicy(agent), estimator="value", steps=[0], n_rollouts=2, max_steps=2
    )
    assert row.value == 0.0  # the rollouts were cut before the step that pays


def test_an_external_call_is_identified_by_its_order(tmp_path: Path) -> None:
    class Posted(Bank):
        sent = 0

        def tools(self) -> tuple[Tool, ...]:
            return (*super().tools(), Tool.with_args("post", "external", text="string"))

        def call(self, name: str, arguments: dict[str, Any], /) -> Any:
            if name != "post":
                return super().call(name, arguments)
            type(self).sent += 1
            return {"sent": type(self).sent}

    def agent(ep: Any) -> None:
        ep.model(go_on, messages=["all at once"])
        ep.call("deposit", amount=100)
        ep.call("post", text="one")
        assert ep.call("post", text="two") == {"sent": 2}
        ep.call("choose", amount=50)
        ep.call("withdraw")

    episode = record(tmp_path, agent, Posted())
    (row,) = credit.estimate(
        episode, credit.AgentPolicy(agent), estimator="value", n_rollouts=2, env=Posted
    )
    assert (row.value, row.n_invalid, Posted.sent) == (1.0, 0, 2)


class Loose(Bank):
    """A bank that accepts any arguments."""

    def tools(self) -> tuple[Tool, ...]:
        return tuple(Tool(tool.name, None, "write") for tool in super().tools())

    def call(self, name: str, arguments: dict[str, Any], /) -> dict[str, Any]:
        return super().call(
            name, {"amount": int(np.sum(arguments["amount"]))} if "amount" in arguments else {}
        )


SECRET = "sk-abcdefghijklmnopqrstuvwxyz0123456789"


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    "extra", [np.array([1.0, 2.0]), float("nan"), (1, 2)], ids=["array", "nan", "tuple"]
)
def test_arguments_are_compared_in_their_recorded_form(tmp_path: Path, extra: Any) -> None:
    first = ("deposit", {"amount": np.array([60, 40]), "api_key": extra})
    agent = agent_of_calls(first, *WON[1:])
    episode = record(tmp_path, agent, Loose())
    table = credit.estimate(episode, credit.AgentPolicy(agent), n_rollouts=2, env=Loose)
    assert {row.value for row in table.of("value")} == {1.0}
    other = agent_of_calls(("deposit", {"amount": np.array([60, 41]), "api_key": extra}), *WON[1:])
    with pytest.raises(AgentDivergedError, match="call 0 of the agent is deposit") as raised:
        credit.estimate(episode, credit.AgentPolicy(other), n_rollouts=2, env=Loose)
    assert "amount" in str(raised.value)


def test_rollouts_behind_a_redacted_argument_are_refused(tmp_path: Path) -> None:
    first = ("deposit", {"amount": np.array([60, 40]), "api_key": SECRET})
    agent = agent_of_calls(first, *WON[1:])
    episode = record(tmp_path, agent, Loose())
    with pytest.raises(RedactedError, match="step 1 cannot be reached"):
        credit.estimate(episode, credit.AgentPolicy(agent), n_rollouts=2, env=Loose)


@pytest.mark.slow
def test_a_loop_that_raises_makes_its_rollout_invalid(tmp_path: Path) -> None:
    drawn = random.Random(0)

    def model(*, messages: list[Any]) -> str:
        if drawn.random() < 0.5:
            raise ConnectionError("the model is unavailable")
        return "go on"

    def agent(ep: Any) -> None:
        ep.call(*WON[0][:1], **WON[0][1])
        ep.model(model, messages=["and now?"])
        for tool, arguments in WON[1:]:
            ep.execute(tool, arguments)

    while True:
        try:
            episode = record(tmp_path, agent)
            break
        except ConnectionError:
            continue
    table = credit.estimate(
        episode, credit.AgentPolicy(agent, is_seeded=False), estimator="value", n_rollouts=32
    )
    assert len(table) == 2
    for row in table:
        assert 0 < row.n_invalid < 32
        assert (row.n + row.n_invalid, row.value) == (32, 1.0)
    assert "ConnectionError: the model is unavailable" in "".join(table.notes)

    def after_its_calls(ep: Any) -> None:
        agent_of_calls(*WON)(ep)
        raise RuntimeError("gave up")

    with pytest.raises(RuntimeError):
        record(tmp_path / "b", after_its_calls)
    episode = next(trajrec.open(tmp_path / "b").episodes())
    table = credit.estimate(
        episode, credit.AgentPolicy(after_its_calls), estimator="value", n_rollouts=2
    )
    assert all((row.n, row.n_invalid) == (0, 2) for row in table)
    assert "gave up" in "".join(table.notes)


def test_stopping_is_an_alternative_action(tmp_path: Path) -> None:
    def agent(ep: Any) -> None:
        for tool, arguments in WON:
            ep.model(go_on, messages=[tool])
            ep.execute(tool, arguments)

    episode = record(tmp_path, agent)
    for alternative in (
        {"action": None},
        {"by": credit.AgentPolicy(lambda ep: None)},
        {"by": lambda context: None},
    ):
        table = credit.counterfactual(
            episode, credit.AgentPolicy(agent), 0, n_rollouts=2, **alternative
        )  # type: ignore[arg-type]
        assert table.of("effect")[0].value == -1.0
    table = credit.counterfactual(episode, credit.AgentPolicy(agent), 1, n_rollouts=2, action=None)
    assert table.of("substituted")[0].value == 0.0


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("is_kept", [True, False])
def test_a_stream_left_early_keeps_its_read_pieces(tmp_path: Path, is_kept: bool) -> None:
    open_streams: list[Any] = []
    closed: list[bool] = []
    drawn = random.Random(0)
    is_rolling = False

    def model(*, messages: list[Any]) -> Iterator[str]:
        try:
            yield from "50" if drawn.random() < 0.5 else "150"
            yield "\n"
            yield "and more"
        finally:
            closed.append(True)

    def agent(ep: Any) -> None:
        ep.call("deposit", amount=100)
        text = ""
        stream = ep.model(model, messages=["amount?"])
        for piece in stream:
            if piece == "\n":
                break
            text += piece
        if is_kept and is_rolling:
            open_streams.append(stream)
        ep.call("choose", amount=int(text))
        ep.call("withdraw")

    while (episode := record(tmp_path, agent)).transcript.attempts[1].arguments != {"amount": 150}:
        continue
    closed.clear()
    is_rolling = True
    first, second = credit.estimate(
        episode, credit.AgentPolicy(agent, is_seeded=False), estimator="value", n_rollouts=32
    )
    assert len(closed) == 64
    assert first.ci_low <= 0.5 <= first.ci_high
    assert second.ci_low <= 0.5 <= second.ci_high

    def read_further(ep: Any) -> None:
        ep.call("deposit", amount=100)
        stream = ep.model(model, messages=["amount?"])
        next(stream)
        ep.call("choose", amount=50)
        assert list(stream)
        ep.call("withdraw")

    episode = record(tmp_path, read_further)
    with pytest.raises(
        AgentDivergedError,
        match="model request 0 of the agent: its answer was streamed, and closed when",
    ):
        credit.estimate(
            episode, credit.AgentPolicy(read_further), estimator="value", steps=[0], n_rollouts=2
        )


def test_a_sync_agent_may_run_async_code(tmp_path: Path) -> None:
    class Slow(Bank):
        async def call(self, name: str, arguments: dict[str, Any], /) -> Any:  # type: ignore[override]
            if name == "withdraw" and not self.chosen:
                raise ValueError("nothing is chosen")
            return super().call(name, arguments)

    n_asked = 0

    async def model(*, messages: list[Any]) -> str:
        nonlocal n_asked
        n_asked += 1
        return "50"

    async def tokens(*, messages: list[Any]) -> Any:
        async def pieces() -> Any:
            yield "5"
            yield "0"

        return pieces()

    async def inner(ep: Any) -> None:
        assert ep.id
        assert (
            "".join([piece async for piece in await ep.model(tokens, messages=["stream"])]) == "50"
        )
        await asyncio.gather(ep.call("deposit", amount=60), ep.call("deposit", amount=40))
        with pytest.raises(ValueError, match="nothing is chosen"):
            await ep.call("withdraw")
        amount = await ep.model(model, messages=["amount?"])
        await ep.call("choose", amount=int(amount))
        await ep.call("withdraw")

    def agent(ep: Any) -> None:
        asyncio.run(inner(ep))

    episode = record(tmp_path, agent, Slow())
    n_asked = 0
    table = credit.estimate(
        episode,
        credit.AgentPolicy(agent),
        estimator="value",
        n_rollouts=2,
        env=Slow,
        merge_rollouts=False,
    )
    assert {row.value for row in table} == {1.0}
    assert n_asked == 2 * episode.n_steps
    with trajrec.rerun(episode) as ep:
        agent(ep)


def test_a_tool_may_be_any_callable(tmp_path: Path) -> None:
    class Ask:
        def __call__(self, x: int, *rest: int) -> int:
            return x

    agent = agent_of_calls(*WON, before=lambda ep: ep.tool(Ask())(50, 2, 3))
    episode = record(tmp_path, agent)
    table = credit.estimate(episode, credit.AgentPolicy(agent), estimator="value", n_rollouts=2)
    assert {(row.value, row.n_invalid) for row in table} == {(1.0, 0)}


def test_a_generator_that_is_called_by_name_is_one(tmp_path: Path) -> None:
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    def read(ep: Any) -> None:
        ep.tool(count)
        numbers = ep.call("count", n=3)
        assert [next(numbers), *numbers] == [0, 1, 2]

    agent = agent_of_calls(*WON, before=read)
    episode = record(tmp_path, agent)
    table = credit.estimate(episode, credit.AgentPolicy(agent), estimator="value", n_rollouts=2)
    assert {(row.value, row.n_invalid) for row in table} == {(1.0, 0)}


def test_another_agent_may_prompt_differently_at_its_step(tmp_path: Path) -> None:
    model = Model()

    def careful(ep: Any) -> None:
        ep.model(
            model,
            messages=[{"role": "user", "content": ep.goal}, {"role": "user", "content": "deposit"}],
        )
        ep.call("deposit", amount=100)
        ep.model(lambda *, messages: "50", messages=["be careful. what amount?"])
        ep.call("choose", amount=50)

    by = credit.AgentPolicy(careful, is_seeded=False)

    def plain(ep: Any) -> None:
        messages = [{"role": "user", "content": ep.goal}, {"role": "user", "content": "deposit"}]
        ep.model(model, messages=messages)
        ep.call("deposit", amount=100)
        ep.call("choose", amount=int(ep.model(model_of_amounts, messages=["what amount?"])))
        ep.model(go_on, messages=["withdraw"])
        ep.call("withdraw")

    def model_of_amounts(*, messages: list[Any]) -> str:
        return "150"

    short = record(tmp_path / "b", plain)
    table = credit.counterfactual(
        short, credit.AgentPolicy(plain, is_seeded=False), 1, by=by, n_rollouts=4
    )
    assert table.of("kept")[0].value == 0.0
    assert table.of("substituted")[0].value == 1.0
    with pytest.raises(
        AgentDivergedError, match="model request 1 of the agent is not the recorded one"
    ):
        credit.counterfactual(
            short, credit.AgentPolicy(plain, is_seeded=False), 2, by=by, n_rollouts=4
        )


@pytest.mark.slow
def test_the_policy_remembers_digests_of_requests(tmp_path: Path) -> None:
    large = "y" * 100_000

    def agent(ep: Any) -> None:
        for k in range(4):
            ep.model(go_on, messages=[large, k])
            ep.call("deposit", amount=1)

    episode = record(tmp_path, agent)
    policy = credit.AgentPolicy(agent)
    start = Recording(episode).context(0)
    assert policy.act(start, np.random.default_rng(0)) == [("deposit", {"amount": 1})]
    assert len(pickle.dumps(policy.snapshot())) < 1000
    assert isinstance(policy.memory_key(start), bytes)
    assert len(policy.memory_key(start)) < 100

    prompts = iter(range(100))

    def fickle(ep: Any) -> None:
        ep.model(go_on, messages=[next(prompts)])
        ep.call("deposit", amount=1)
        ep.model(go_on, messages=["then"])
        ep.call("deposit", amount=1)

    with pytest.raises(
        AgentDivergedError, match="differs from the request that it made at this place before"
    ):
        credit.estimate(
            record(tmp_path / "b", fickle),
            credit.AgentPolicy(fickle),
            estimator="value",
            steps=[0],
            n_rollouts=2,
        )


def test_an_async_agent_is_refused() -> None:
    async def agent(ep: Any) -> None: ...

    with pytest.raises(TypeError, match="agent must be a sync function"):
        credit.AgentPolicy(agent)


class AsyncLoop:
    async def __call__(self, ep: Any) -> None: ...


def generator_loop(ep: Any) -> Iterator[Any]:
    yield ep.call(*WON[0][:1], **WON[0][1])


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("agent", [AsyncLoop(), lambda ep: AsyncLoop()(ep), generator_loop])
def test_an_agent_that_returns_its_loop_unrun_is_refused(tmp_path: Path, agent: Any) -> None:
    episode = record(tmp_path, agent_of_calls(*WON))
    policy = credit.AgentPolicy(agent, "unrun")
    with pytest.raises(TypeError, match=r"it returned a (coroutine|generator): give a function"):
        credit.estimate(episode, policy, estimator="value", n_rollouts=2)


class TextlessError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def test_an_error_without_a_text_is_played_back(tmp_path: Path) -> None:
    def model(*, messages: list[Any]) -> str:
        raise TextlessError

    def agent(ep: Any) -> None:
        ep.call(*WON[0][:1], **WON[0][1])
        with pytest.raises(TextlessError):
            ep.model(model, messages=["and now?"])
        for tool, arguments in WON[1:]:
            ep.execute(tool, arguments)

    episode = record(tmp_path, agent)
    policy = credit.AgentPolicy(agent, is_seeded=True)
    (row,) = credit.estimate(episode, policy, estimator="value", steps=[0], n_rollouts=2)
    assert (row.value, row.n_invalid) == (1.0, 0)


def test_a_loop_whose_error_has_no_text_is_invalid(tmp_path: Path) -> None:
    def agent(ep: Any) -> None:
        agent_of_calls(*WON)(ep)
        raise TextlessError

    with contextlib.suppress(TextlessError):
        record(tmp_path, agent)
    episode = next(trajrec.open(tmp_path).episodes())
    table = credit.estimate(
        episode, credit.AgentPolicy(agent), estimator="value", steps=[1], n_rollouts=2
    )
    assert "TextlessError: <exception str() failed>" in "".join(table.notes)


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("is_async", [False, True])
def test_items_before_a_generator_failed_are_played_back(tmp_path: Path, is_async: bool) -> None:
    def lines() -> Iterator[str]:
        yield "a"
        yield "b"
        raise ConnectionError("cut")

    async def lines_later() -> AsyncIterator[str]:
        yield "a"
        yield "b"
        raise ConnectionError("cut")

    async def read(tool: Callable[[], AsyncIterator[str]], got: list[str]) -> None:
        async for line in tool():
            got.append(line)

    def agent(ep: Any) -> None:
        ep.call("deposit", amount=100)
        got: list[str] = []
        # A cut ends the reading and not the agent.
        with contextlib.suppress(ConnectionError):
            if is_async:
                asyncio.run(read(ep.tool(lines_later), got))
            for line in () if is_async else ep.tool(lines)():
                got.append(line)
        ep.call("choose", amount=50 if got == ["a", "b"] else 150)
        ep.call("withdraw")

    episode = record(tmp_path, agent)
    for step in (0, 2, 3):
        (row,) = credit.estimate(
            episode, credit.AgentPolicy(agent), estimator="value", steps=[step], n_rollouts=2
        )
        assert (row.value, row.n_invalid) == (1.0, 0)


def took_money(world: Any) -> bool:
    return False


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("decides", [False, True])
def test_an_agent_that_decides_by_its_own_check_is_refused(tmp_path: Path, decides: bool) -> None:
    def agent(ep: Any) -> None:
        ep.call("deposit", amount=100)
        verdict = ep.check(took_money)
        if decides and verdict.passed is not True:
            ep.call("choose", amount=150)
        else:
            ep.call("choose", amount=150)
        ep.call("withdraw")
        # Behind the last call, nothing depends on it.
        assert ep.check(took_money).passed in (None, False)

    episode = record(tmp_path, agent)
    refused = pytest.raises(AgentDivergedError, match="after it has read the verdict of a check")
    with refused if decides else contextlib.nullcontext():
        (row,) = credit.estimate(
            episode, credit.AgentPolicy(agent), estimator="value", steps=[1], n_rollouts=2
        )
        assert row.n_invalid == 0
