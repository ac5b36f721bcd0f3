"""Agents that ask models as policies: what was said is said again, and only what comes after it is asked anew."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import trajrec
from trajrec.agents.sink import close_logs
from trajrec.envs import Bank
from trajrec.episodes import Episode
from trajrec.errors import AgentChangedError
from trajrec.replay import credit


class Model:
    """Says one thing or another, each as often; counts how often it was asked."""

    def __init__(self, seed: int = 0) -> None:
        self.drawn, self.n_asked = random.Random(seed), 0

    def __call__(self, *, messages: list[dict[str, str]]) -> dict[str, str]:
        self.n_asked += 1
        if "amount" not in messages[-1]["content"]:
            return {"role": "assistant", "content": "go on"}
        return {"role": "assistant", "content": str(self.drawn.choice([50, 150]))}

    def stream(self, *, messages: list[dict[str, str]]) -> Iterator[str]:
        yield from self(messages=messages)["content"]


def agent_of(ask: Callable[..., Any], amount: Callable[[Any], int] | None = None) -> Callable[[Any], None]:
    """Return an agent that asks a model before each call, and keeps the conversation."""

    def agent(ep: Any) -> None:
        messages = [{"role": "user", "content": ep.goal}]
        for what in ("deposit", "what amount?", "withdraw"):
            messages.append({"role": "user", "content": what})
            said = ep.model(ask, messages=list(messages))
            text = said["content"] if isinstance(said, dict) else "".join(said)
            messages.append({"role": "assistant", "content": text})
            if what == "deposit":
                ep.call("deposit", amount=100)
            elif what == "withdraw":
                ep.call("withdraw")
            else:
                ep.call("choose", amount=int(text))
        ep.stop("done")

    return agent


def record(folder: Path, agent: Callable[[Any], None]) -> Episode:
    with trajrec.episode(folder, task="t", world=Bank(), goal="take money out") as ep:
        agent(ep)
    close_logs()
    return trajrec.open(folder).episode(ep.id)


def lost(folder: Path, ask: Callable[[Model], Callable[..., Any]] = lambda model: model) -> tuple[Episode, Model]:
    """Record an episode in which the model said 150."""
    for seed in range(10):
        model = Model(seed)
        episode = record(folder, agent_of(ask(model)))
        if episode.transcript.attempts[1].arguments == {"amount": 150}:
            return episode, model
    raise AssertionError


@pytest.mark.parametrize("how", ["answer", "stream"])
def test_what_was_recorded_is_never_asked_again(tmp_path: Path, how: str) -> None:
    ask = (lambda model: model) if how == "answer" else (lambda model: model.stream)
    episode, model = lost(tmp_path, ask)  # type: ignore[arg-type]
    policy = credit.AgentPolicy(agent_of(ask(model)), is_seeded=False)  # type: ignore[no-untyped-call]
    for step, n_asked in ((0, 3), (1, 2), (2, 1)):
        model.n_asked = 0
        (row,) = credit.scan(episode, policy, estimator="value", steps=[step], n=8)
        assert model.n_asked == 8 * n_asked
        assert row.noise == "fresh"
        assert row.value == 0 if step > 1 else 0 <= row.value <= 1


def test_the_answer_that_lost_it_is_named_with_its_probability(tmp_path: Path) -> None:
    episode, model = lost(tmp_path)
    policy = credit.AgentPolicy(agent_of(model), is_seeded=False)
    found = credit.decisive_step(episode, policy, n=32)
    assert found.step == 1
    table = credit.scan(episode, policy, n=64)
    by_step = {row.step: row for row in table.of("advantage")}
    assert by_step[1].lo < -0.5 < by_step[1].hi
    assert by_step[0].lo <= 0 <= by_step[0].hi
    assert by_step[2].value == 0


def test_a_model_that_only_seems_to_be_seeded_is_found_out(tmp_path: Path) -> None:
    episode, model = lost(tmp_path)
    table = credit.scan(episode, credit.AgentPolicy(agent_of(model)), estimator="value", steps=[0], n=16)
    assert {row.noise for row in table} == {"fresh"}


def test_a_model_that_always_says_the_same_is_asked_under_shared_noise(tmp_path: Path) -> None:
    def sure(*, messages: list[dict[str, str]]) -> dict[str, str]:
        return {"role": "assistant", "content": "150" if "amount" in messages[-1]["content"] else "go on"}

    episode = record(tmp_path, agent_of(sure))
    table = credit.scan(episode, credit.AgentPolicy(agent_of(sure)), n=4)
    assert {row.noise for row in table} == {"shared"}
    assert all(row.value == 0 for row in table.of("advantage"))


def test_a_call_that_no_model_asked_for_leads_nowhere_and_its_own_alternatives_do(tmp_path: Path) -> None:
    episode, model = lost(tmp_path)
    policy = credit.AgentPolicy(agent_of(model), is_seeded=False)
    with pytest.raises(AgentChangedError, match="a call was put in the place of what it asked for"):
        credit.substitute(episode, policy, 1, action=("choose", {"amount": 50}), n=4)
    table = credit.substitute(episode, policy, 1, by=credit.AgentPolicy(agent_of(model), is_seeded=False), n=64)
    (other,) = table.of("substituted")
    assert other.lo < 0.5 < other.hi


def test_an_agent_that_asks_otherwise_than_it_did_is_told_what_is_different(tmp_path: Path) -> None:
    episode, model = lost(tmp_path)

    def polite(ep: Any) -> None:
        ep.model(model, messages=[{"role": "user", "content": "please"}])

    with pytest.raises(AgentChangedError, match=r"model request 0 of the agent is not the recorded one: messages/0/content"):
        credit.scan(episode, credit.AgentPolicy(polite), estimator="value", steps=[1], n=2)


def test_failures_of_models_and_values_from_outside_come_again(tmp_path: Path) -> None:
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
        assert ep.effect("clock", clock) == 12.5
        for attempt in ep.retrying(3, on=TimeoutError):
            with attempt:
                said = ep.model(flaky, messages=[{"role": "user", "content": "how much?"}])
        ep.call("deposit", amount=int(said["content"]))
        ep.call("choose", amount=50)
        with ep.step():
            ep.call("withdraw")

    episode = record(tmp_path, agent)
    assert asked == ["clock", "model", "model"]
    table = credit.scan(episode, credit.AgentPolicy(agent), estimator="value", n=4)
    assert {row.value for row in table} == {1.0}
    later = len(asked)
    credit.scan(episode, credit.AgentPolicy(agent), estimator="value", steps=[episode.n_steps - 1], n=4)
    assert len(asked) == later


def test_clients_that_record_by_themselves_are_answered_too(tmp_path: Path) -> None:
    class Completions:
        def __init__(self) -> None:
            self.n_asked = 0

        def create(self, **request: Any) -> dict[str, Any]:
            self.n_asked += 1
            return {"choices": [{"message": {"content": "50"}}]}

    class Client:
        class chat:
            completions = Completions()

    client = trajrec.openai(Client())

    def agent(ep: Any) -> None:
        ep.call("deposit", amount=100)
        reply = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "amount?"}])
        ep.call("choose", amount=int(reply["choices"][0]["message"]["content"]))
        with ep.step():
            ep.call("withdraw")

    episode = record(tmp_path, agent)
    Client.chat.completions.n_asked = 0
    (row,) = credit.scan(episode, credit.AgentPolicy(agent), estimator="value", steps=[episode.n_steps - 1], n=2)
    assert (row.value, Client.chat.completions.n_asked) == (1.0, 0)


def test_a_fork_of_an_agent_knows_what_its_parent_did(tmp_path: Path) -> None:
    def sure(*, messages: list[dict[str, str]]) -> dict[str, str]:
        return {"role": "assistant", "content": "150" if "amount" in messages[-1]["content"] else "go on"}

    def other(*, messages: list[dict[str, str]]) -> dict[str, str]:
        return {"role": "assistant", "content": "50" if "AMOUNT" in messages[-1]["content"] else "go on"}

    def shouting(ep: Any) -> None:
        for what in ("deposit", "what AMOUNT?", "withdraw"):
            said = ep.model(other, messages=[{"role": "user", "content": what}])
            ep.call({"d": "deposit", "w": "choose"}[what[0]] if what != "withdraw" else what, **arguments[what](said))

    arguments: dict[str, Callable[[Any], dict[str, int]]] = {
        "deposit": lambda said: {"amount": 100},
        "what AMOUNT?": lambda said: {"amount": int(said["content"])},
        "withdraw": lambda said: {},
    }

    def calm(ep: Any) -> None:
        ep.model(sure, messages=[{"role": "user", "content": "deposit"}])
        ep.call("deposit", amount=100)
        ep.call("choose", amount=int(ep.model(sure, messages=[{"role": "user", "content": "what amount?"}])["content"]))

    episode = record(tmp_path, calm)
    with trajrec.rerun(episode, on_difference="live", folder=tmp_path) as ep:
        shouting(ep)
    close_logs()
    fork = trajrec.open(tmp_path).episode(ep.id)
    assert (fork.first_step, fork.n_steps) == (1, 3)
    plan = [("deposit", {"amount": 100}), ("choose", {"amount": 50}), ("withdraw", {})]
    seen: list[int] = []

    def follow(context: Any) -> Any:
        seen.append(len(context.made))
        return plan[len(context.made)] if len(context.made) < len(plan) else None

    assert {row.value for row in credit.scan(fork, follow, n=2).of("value")} == {1.0}
    assert min(seen) == 1
    table = credit.scan(fork, credit.AgentPolicy(shouting), estimator="value", n=2)
    assert {row.value for row in table} == {1.0}


def test_a_fork_in_the_midst_of_a_step_goes_on_from_there(tmp_path: Path) -> None:
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
    (row,) = credit.scan(fork, credit.AgentPolicy(agent_that_chooses(50)), estimator="value", n=2)
    assert (row.step, row.value) == (0, 1.0)
    assert fork.transcript.attempts[0].arguments == {"amount": 50}


@pytest.mark.parametrize("has_model", [True, False])
def test_a_value_from_outside_belongs_to_the_call_that_it_decides(tmp_path: Path, has_model: bool) -> None:
    drawn = random.Random(0)

    def model(*, messages: list[str]) -> str:
        return "go on"

    def agent(ep: Any) -> None:
        ep.call("deposit", amount=100)
        amount = ep.effect("draw", drawn.choice, [50, 150])
        if has_model:
            ep.model(model, messages=[str(amount)])
        ep.call("choose", amount=amount)
        with ep.step():
            ep.call("withdraw")

    while (episode := record(tmp_path, agent)).transcript.attempts[1].arguments != {"amount": 150}:
        continue
    before, after = credit.scan(episode, credit.AgentPolicy(agent, is_seeded=False), estimator="value", steps=[1, 2], n=32)
    assert before.lo <= 0.5 <= before.hi
    assert after.value == 0.0


def test_a_function_beside_the_world_is_answered_from_the_log_or_not_at_all(tmp_path: Path) -> None:
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
    table = credit.scan(episode, credit.AgentPolicy(agent_for("A")), estimator="value", n=2)
    assert {row.value for row in table} == {1.0}
    assert not any(row.n_lost for row in table)
    (row,) = credit.scan(episode, credit.AgentPolicy(agent_for("B")), estimator="value", steps=[0], n=2)
    assert row.n_lost == 2
    assert called == ["A"]


def test_an_async_agent_is_refused() -> None:
    async def agent(ep: Any) -> None: ...

    with pytest.raises(TypeError, match="an async agent cannot be a policy"):
        credit.AgentPolicy(agent)
