"""Results of tau-bench: a list of episodes, each with its task, its reward and its conversation.

A trial is a repetition of a task. The actions of the solution are kept apart from the goal.
"""

from __future__ import annotations

from collections.abc import Iterator

from trajrec.exchange.account import Account
from trajrec.exchange.candidates import Candidate, Format, records_of
from trajrec.exchange.chat_messages import ChatForm, ChatReader, last_text
from trajrec.exchange.reading import Place, number_or_none, text_of, texts_by_key
from trajrec.exchange.records import Fault, ImportedEpisode, Verdict
from trajrec.types import JsonObject

EPISODE = frozenset(("task_id", "reward", "info", "traj", "trial"))
INFO = frozenset(("task", "reward_info", "user_cost"))
STOP = "###STOP###"
ERROR = "Error:"


def _error(message: JsonObject) -> str | None:
    """Return the text of an error: the tools of tau-bench begin it with a word."""
    content = message.get("content")
    return content if type(content) is str and content.startswith(ERROR) else None


FORM = ChatForm(find_error=_error, silent="ok")


def _matches(candidate: Candidate) -> bool:
    return {"task_id", "reward", "traj"} <= candidate.first_record.keys()


def _read(candidate: Candidate, account: Account) -> Iterator[ImportedEpisode]:
    place = Place(candidate.path)

    def read(position: str, record: JsonObject) -> Iterator[ImportedEpisode]:
        yield _episode(record, place.at(position), position, account)

    yield from account.whole_parts(records_of(candidate, account, "an episode"), read)


def _episode(record: JsonObject, place: Place, position: str, account: Account) -> ImportedEpisode:
    rest = account.take(record, "episode", EPISODE)
    info = place.optional(dict, record.get("info"), "info", {})
    info_rest = account.take(info, "info", INFO)
    extra: JsonObject = rest or {}
    if info_rest is not None:
        extra["info"] = info_rest
    task = place.optional(dict, info.get("task"), "info.task", {})
    if task:
        # It holds the actions of the solution, which no goal may tell.
        extra["task"] = task
    task_id = record.get("task_id")
    items = ChatReader(FORM, account, place).read(record.get("traj"), "traj")
    metadata = {"group": task_id, "trial": record.get("trial")}
    odd = {name: v for name, v in metadata.items() if type(v) not in (str, int, type(None))}
    if odd:
        extra["metadata"] = odd
    has_stopped = STOP in last_text(items)
    episode = ImportedEpisode(
        position=position,
        task=text_of(task_id),
        goal=task.get("instruction"),
        metadata={key: value for key, value in metadata.items() if type(value) in (str, int)},
        items=items,
        ending="terminated" if has_stopped else "unknown",
        stop_reason="user_stop" if has_stopped else "",
        reported={"user_cost": info["user_cost"]} if info.get("user_cost") is not None else None,
        extra=extra or None,
    )
    _add_checks(record, info, place, episode)
    if type(info.get("error")) is str:
        # Of an episode that raised, the reward is 0 though nothing was judged.
        traceback = text_of(info.get("traceback"))
        episode.items.append(Fault(message=info["error"], traceback=traceback))
        episode.ending = "error"
    return episode


def _add_checks(
    record: JsonObject, info: JsonObject, place: Place, episode: ImportedEpisode
) -> None:
    """Add the reward, and each of its parts that was judged."""
    reward = number_or_none(record.get("reward"))
    details = texts_by_key(info.get("reward_info"))
    evidence = info.get("reward_info")
    if reward is None and record.get("reward") is not None:
        evidence = {"reward": record.get("reward"), "reward_info": evidence}
    episode.items.append(
        Verdict(
            check_id="reward",
            family="programmatic",
            status="not_evaluated" if reward is None else "ok",
            verdict=bool(reward) if reward in (0.0, 1.0) else None,
            score=reward,
            evidence=evidence,
            is_primary=True,
        )
    )
    for name in ("r_actions", "r_outputs"):
        score = number_or_none(texts_by_key(details.get("info")).get(name))
        if score is not None:
            verdict = bool(score) if score in (0.0, 1.0) else None
            episode.items.append(
                Verdict(check_id=name, family="programmatic", verdict=verdict, score=score)
            )


FORMAT = Format(name="tau-bench", title="tau-bench", matches=_matches, read=_read)
