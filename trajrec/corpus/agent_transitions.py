"""The transitions of each player of a PettingZoo environment, from one of its decisions to the next."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.corpus.step import Step
from trajrec.errors import CorpusError
from trajrec.log.schema import API_FIELD
from trajrec.types import Array, Value
from trajrec.values.presented import presented, stacked


class AgentTransitions(NamedTuple):
    """The transitions of one player in one episode; T of them, in order.

    Attributes:
        episode_id: The episode.
        agent: The player.
        step: The step of each decision, (T,) int64.
        obs: The observation that the player decided on: an array (T, *shape), a dict or tuple of
            arrays if it is composed, or a list of values without a common shape.
        action: The action, in the same forms.
        reward: The player's reward until `next_obs`, (T,).
        next_obs: The player's next observation.
        terminated: Whether the player was done then, (T,) bool.
        truncated: Whether a limit ended it then, (T,) bool.
        n_dropped: Decisions of the player whose next observation the log does not have: the loop
            was left, a step raised, or the log has lost steps.
    """

    episode_id: str
    agent: Value
    step: Array
    obs: Value
    action: Value
    reward: Array
    next_obs: Value
    terminated: Array
    truncated: Array
    n_dropped: int


class _Decision(NamedTuple):
    """A decision of a player: the step, the observation before it, and the action."""

    step: int
    obs: Value
    action: Value


class _Row(NamedTuple):
    """A transition of a player."""

    decision: _Decision
    reward: Value
    next_obs: Value
    terminated: bool
    truncated: bool


class _Player:
    """The transitions of one player so far."""

    def __init__(self) -> None:
        self.rows: list[_Row] = []
        self.open: _Decision | None = None
        self.n_dropped = 0
        # Whether the last transition goes on until the player acts again.
        self.is_waiting = False
        # A player never comes back: actions and rewards after its end are padding.
        self.is_done = False

    def decide(self, decision: _Decision) -> None:
        """Note a decision, which is open until the next observation."""
        self.drop()
        if not self.is_done:
            self.open = decision

    def drop(self) -> None:
        """Give up a decision of which no next observation will come."""
        self.n_dropped += self.open is not None
        self.open = None
        self.is_waiting = False

    def close(self, *, reward: Value, next_obs: Value, terminated: Value, truncated: Value) -> None:
        """End the open decision, if there is one."""
        if self.open is not None:
            row = _Row(self.open, reward, next_obs, bool(terminated), bool(truncated))
            self.rows.append(row)
            self.open = None
            self._note_end(row)

    def wait(self, step: Step, agent: Value) -> None:
        """Extend the last transition by a step in which the player did not act."""
        if not self.is_waiting:
            return
        row = self.rows[-1]
        reward = row.reward
        if agent in step.reward:
            later = step.reward[agent]
            # An unknown part makes the sum unknown.
            reward = None if reward is None or later is None else reward + later
        row = row._replace(
            reward=reward,
            next_obs=step.observation.get(agent, row.next_obs),
            terminated=bool(step.info["terminations"].get(agent, False)),
            truncated=bool(step.info["truncations"].get(agent, False)),
        )
        self.rows[-1] = row
        self._note_end(row)

    def _note_end(self, row: _Row) -> None:
        self.is_done = row.terminated or row.truncated
        self.is_waiting = not self.is_done


def agent_transitions(episode: Episode) -> list[AgentTransitions]:
    """Return the transitions of each player of an episode.

    In a parallel environment a player decides in each step for which it has an action; a step
    without one extends its transition before. In one of the kind AEC a player's transition goes
    from one of its turns to its next, as `last()` shows both: the reward is the sum since its
    decision.

    Raises:
        CorpusError: The episode is of no PettingZoo environment.
        LogError: The log cannot be read.
    """
    api = episode.header.env.spec_fields.get(API_FIELD)
    if api not in ("aec", "parallel"):
        raise CorpusError(
            f"episode {episode.id} is of no PettingZoo environment; corpus.transitions reads it"
        )
    decide, close = (_decide_turn, _end_turn) if api == "aec" else (_decide_joint, _end_joint)
    players: dict[Value, _Player] = {}
    before: Value = episode.observation_at(0) if episode.has_reset else None
    number = episode.first_step
    for step in episode.steps():
        if step.step != number:
            # What happened in between is unknown.
            before = None
            _drop_all(players)
        number = step.step + 1
        if before is not None:
            decide(players, before, step)
        if step.failure is not None:
            # Half done: no next observation follows from it.
            before = None
            _drop_all(players)
            continue
        if before is not None:
            close(players, step)
        before = step.observation
    _drop_all(players)
    return [
        _columns(episode.id, agent, player)
        for agent, player in players.items()
        if player.rows or player.n_dropped
    ]


def _drop_all(players: dict[Value, _Player]) -> None:
    for player in players.values():
        player.drop()


def _actions(step: Step) -> dict[Value, Value]:
    """Return the action of each player; none for a value that a loop gave in place of a dict."""
    return step.action if isinstance(step.action, dict) else {}


def _decide_joint(players: dict[Value, _Player], before: Value, step: Step) -> None:
    """Note the decisions of a step of a parallel environment: of each player that acted."""
    for agent, action in _actions(step).items():
        player = players.setdefault(agent, _Player())
        if agent in before:
            player.decide(_Decision(step.step, before[agent], action))
        else:
            # Nothing says what this decision was made on, and earlier ones end before it.
            player.drop()


def _end_joint(players: dict[Value, _Player], step: Step) -> None:
    """End the decisions of a step of a parallel environment."""
    actions = _actions(step)
    for agent in actions:
        # An environment may tell a player that it has removed nothing.
        if agent in step.observation and agent in step.reward:
            players[agent].close(
                reward=step.reward[agent],
                next_obs=step.observation[agent],
                terminated=step.info["terminations"].get(agent, False),
                truncated=step.info["truncations"].get(agent, False),
            )
    for agent, player in players.items():
        if agent not in actions:
            player.wait(step, agent)


def _decide_turn(players: dict[Value, _Player], before: Value, step: Step) -> None:
    """Note the decision of a turn of an AEC environment."""
    player = players.setdefault(before["agent"], _Player())
    # A player that is done has to take the action None: that is no decision.
    if not before["terminated"] and not before["truncated"]:
        player.decide(_Decision(step.step, before["observation"], step.action))


def _end_turn(players: dict[Value, _Player], step: Step) -> None:
    """End the earlier decision of the player whose turn is next, who sees its result now."""
    after = step.observation
    if after is not None:
        players.setdefault(after["agent"], _Player()).close(
            reward=after["reward"],
            next_obs=after["observation"],
            terminated=after["terminated"],
            truncated=after["truncated"],
        )


def _columns(episode_id: str, agent: Value, player: _Player) -> AgentTransitions:
    rows = player.rows
    return AgentTransitions(
        episode_id=episode_id,
        agent=agent,
        step=np.array([row.decision.step for row in rows], np.int64),
        obs=_stacked([row.decision.obs for row in rows]),
        action=_stacked([row.decision.action for row in rows]),
        reward=np.asarray([row.reward for row in rows]),
        next_obs=_stacked([row.next_obs for row in rows]),
        terminated=np.array([row.terminated for row in rows], np.bool_),
        truncated=np.array([row.truncated for row in rows], np.bool_),
        n_dropped=player.n_dropped,
    )


def _stacked(values: list[Value]) -> Value:
    """Return values as one array, or as a dict or tuple of arrays, if they have a common shape."""
    shown = list(map(presented, values))
    try:
        return stacked(shown) if shown else shown
    except (ValueError, TypeError, KeyError):
        return shown
