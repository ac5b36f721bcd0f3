"""Finds the episode of an HTTP request: by the context, by the conversation, or a new one."""

from __future__ import annotations

import contextvars
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from trajrec.agents.context import (
    EpisodeSession,
    calling_episode,
    current_episode,
    enter_tool_call,
    open_episodes,
)
from trajrec.agents.exchange_memory import Asking, ExchangeMemory
from trajrec.agents.stand_ins import stand_in_of_request
from trajrec.agents.sub_agents import caller_of
from trajrec.taps import hub, patching
from trajrec.wire.contents import Message
from trajrec.wire.dialects.choose import dialect_of, is_model_request
from trajrec.wire.exchange import Exchange, HttpRequest

MAX_CONVERSATIONS = 1000
"""Conversations of a capture that are open at once; beyond, the one that was silent longest ends."""


class Conversation(EpisodeSession, Protocol):
    """An episode that is begun and ended for a conversation; `CapturedEpisode` is one."""

    def __enter__(self) -> object: ...

    def end(self, reason: str, *, is_known: bool) -> None: ...


CAPTURE_ENDED = "capture ended"
"""The reason for the end of an episode that a capture has made of a conversation."""

NewEpisode: TypeAlias = Callable[[], Conversation]


class Router:
    """Gives each request to an episode: to the first that fits.

    1. The episode in whose block, or task, the request was made. In an experiment: the run of it.
    2. The episode whose conversation it continues. This finds the episode of a request that was
       made elsewhere, say in a thread of a pool. In this order: the episode that asked for the tool
       call whose result the request has; that got the response which it names; that failed at the
       same request; that sent the same first messages.
    3. The episode of the only open block.
    4. During a capture: a new episode. It is nested in the one whose tool call it is made in, as
       the context tells, or the words of its messages; see `trajrec.agents.sub_agents`.

    If several blocks are open and none fits, the request is not recorded, and a warning says so.

    Attributes:
        n_missed: Model calls that no episode took, because several were open.
    """

    def __init__(self) -> None:
        self.n_missed = 0
        self._lock = threading.RLock()
        self._new_episode: NewEpisode | None = None
        self._conversations: dict[int, Conversation] = {}
        self._marked: dict[str, Conversation] = {}

    def begin(self, request: HttpRequest) -> Exchange | None:
        """Record a request in its episode; see `trajrec.taps.hub`."""
        episode = current_episode() or self._find(request)
        return None if episode is None else episode.begin_exchange(request)

    def begin_marked(self, request: HttpRequest, mark: str) -> Exchange | None:
        """Record a request in the episode of a name, which is begun for its first request.

        Args:
            request: The request.
            mark: The name. It holds while this router makes episodes.
        """
        with self._lock:
            if self._new_episode is None:
                return None
            episode = self._marked.get(mark)
            if episode is None or episode.has_ended:
                episode = self._begin_conversation(self._new_episode, request)
                self._marked[mark] = episode
            else:
                self._touch(episode)
        return episode.begin_exchange(request)

    def of_tool_call(self, call_id: str) -> EpisodeSession | None:
        """Return the episode that a tool call of a framework belongs to; None if it is not told.

        Args:
            call_id: Id that the model gave the call, "" if it is not known.
        """
        episode = current_episode()
        if episode is None:
            episode = self._that_asked(call_id)
        return episode if getattr(episode, "holds_tools", True) else None

    def _that_asked(self, call_id: str) -> EpisodeSession | None:
        with self._lock:
            conversations: list[EpisodeSession] = list(self._conversations.values())
            explicit = open_episodes(exclude=conversations)
            asked = [
                episode
                for episode in [*explicit, *conversations]
                if call_id
                and not episode.has_ended
                and (memory := episode.exchange_memory) is not None
                and memory.gave_call({call_id})
            ]
            if len(asked) == 1:
                return asked[0]
            # A rerun remembers no exchanges, and a thread of a pool has no context.
            return explicit[0] if not asked and len(explicit) == 1 else None

    def start(self, new_episode: NewEpisode) -> None:
        """Make an episode for each conversation that no episode takes."""
        self._new_episode = new_episode

    def stop(self, failure: str = "") -> None:
        """End the episodes that were made, and make no more.

        Args:
            failure: How the program failed, "" if it did not: nothing tells which of its
                conversations the failure ended.
        """
        with self._lock:
            self._new_episode = None
            conversations = list(self._conversations.values())
            self._conversations.clear()
            self._marked.clear()
        for episode in conversations:
            _end(episode, failure)

    def forget(self) -> None:
        """Forget the conversations of the parent process, which a forked one must not write to."""
        self._lock = threading.RLock()
        self._conversations = {}
        self._marked = {}

    def _find(self, request: HttpRequest) -> EpisodeSession | None:
        with self._lock:
            stood_in = stand_in_of_request(request)
            if stood_in is not None:
                return stood_in
            explicit = open_episodes(exclude=self._conversations.values())
            if self._new_episode is None and not explicit:
                return None
            if not is_model_request(request):
                return explicit[0] if len(explicit) == 1 else None
            if self._new_episode is None and len(explicit) == 1:
                return explicit[0]
            found = self._continued(request, [*explicit, *self._conversations.values()])
            if found is not None:
                self._touch(found)
                return found
            if len(explicit) == 1:
                return explicit[0]
            if self._new_episode is not None:
                return self._begin_conversation(self._new_episode, request)
            self._lose(len(explicit))
            return None

    def _continued(
        self, request: HttpRequest, episodes: list[EpisodeSession]
    ) -> EpisodeSession | None:
        """Return the episode whose conversation a request continues."""
        known = [
            (episode, memory)
            for episode in episodes
            if not episode.has_ended and (memory := episode.exchange_memory) is not None
        ]
        dialect = dialect_of(request.url, request.body)
        content = dialect.request(request.url, request.body)
        asking = Asking(content, dialect)
        messages = [dialect.message(message) for message in content.messages]
        call_ids = {
            result.call_id for message in messages for result in message.results if result.call_id
        }
        if call_ids:
            gave = [one for one in known if one[1].gave_call(call_ids)]
            if gave:
                return _likeliest(gave, asking, messages)
        if content.previous_response_id:
            for episode, memory in known:
                if memory.gave_response(content.previous_response_id):
                    return episode
        failed = [(episode, memory) for episode, memory in known if memory.has_failed(request)]
        for episode, memory in failed:
            if memory.is_next_try(request):
                return episode
        if failed:
            return failed[0][0]
        return _longest(known, asking)

    def _begin_conversation(self, new_episode: NewEpisode, request: HttpRequest) -> Conversation:
        if len(self._conversations) >= MAX_CONVERSATIONS:
            oldest = next(iter(self._conversations))
            _end(self._conversations.pop(oldest), "")
        caller = calling_episode() or caller_of(request, self._conversations.values())
        episode = new_episode()
        # In a context of its own: the request's task must not be inside of the episode.
        context = contextvars.copy_context()
        if caller is not None:
            context.run(enter_tool_call, caller)
        context.run(episode.__enter__)
        self._conversations[id(episode)] = episode
        return episode

    def _touch(self, episode: EpisodeSession) -> None:
        """Move a conversation to the end of those that may be ended."""
        found = self._conversations.pop(id(episode), None)
        if found is not None:
            self._conversations[id(episode)] = found

    def _lose(self, n_open: int) -> None:
        self.n_missed += 1
        if self.n_missed == 1:
            warnings.warn(
                f"a model call was not recorded: {n_open} episodes are open, and nothing tells "
                "which one it belongs to. It was made in a thread without their context: run that "
                "thread in contextvars.copy_context(), or use one trajrec.capture(folder)",
                RuntimeWarning,
                stacklevel=2,
            )


def _likeliest(
    episodes: list[tuple[EpisodeSession, ExchangeMemory]],
    asking: Asking,
    messages: Sequence[Message],
) -> EpisodeSession:
    """Return the episode whose tool calls a request has results of, if several gave such ids.

    A conversation that was split has the earlier calls twice, and a provider may give equal ids to
    the calls of all conversations. So the calls themselves are compared, then the messages; of
    equal ones the latest is taken.
    """
    if len(episodes) == 1:
        return episodes[0][0]
    calls = [call for message in messages for call in message.calls]
    ranks = [(memory.n_given(calls), memory.continued(asking)) for _, memory in episodes]
    best = max(range(len(episodes)), key=lambda place: (ranks[place], place))
    return episodes[best][0]


def _longest(
    episodes: list[tuple[EpisodeSession, ExchangeMemory]], asking: Asking
) -> EpisodeSession | None:
    """Return the episode that sent the most of the first messages of a request.

    Of equal ones, as of samples of one prompt, it is the one whose answer follows; see `Continued`.
    """
    ranks = [(memory.continued(asking), episode) for episode, memory in episodes]
    found, best = max(ranks, key=lambda rank: rank[0], default=(None, None))
    return best if found is not None and found.n else None


def _end(episode: Conversation, failure: str) -> None:
    if episode.has_ended:
        return
    memory = episode.exchange_memory
    is_in_the_middle = memory is not None and memory.is_in_the_middle()
    episode.end(failure or CAPTURE_ENDED, is_known=not (failure or is_in_the_middle))


router = Router()
"""Gives the requests of this process to its episodes."""


def connect_taps(user: object) -> Callable[[], object]:
    """Turn the taps in HTTP libraries on while an object needs them; they report to the router.

    Returns:
        A function that ends the need. A second call does nothing. The end of the object does the
        same: an episode that an exception has broken off is never left.
    """
    hub.listen(router.begin)
    patching.install()
    return weakref.finalize(user, patching.uninstall)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=router.forget)
