"""Addresses of pages. A report has none but those of its own steps."""

from __future__ import annotations

from urllib.parse import quote, urlencode


class Links:
    """The addresses that the viewer serves."""

    is_report = False

    def corpus(self) -> str | None:
        """Return the address of the corpus."""
        return "/"

    def episode(self, episode_id: str) -> str | None:
        """Return the address of an episode; None if it has none."""
        return f"/e/{quote(episode_id, safe='')}"

    def step(self, episode_id: str, step: int) -> str:
        """Return the address of a step of the shown episode."""
        return f"/e/{quote(episode_id, safe='')}/{step}"

    def forks(self, episode_id: str) -> str | None:
        """Return the address of an episode's tree of forks; None if it has none."""
        return f"/e/{quote(episode_id, safe='')}/forks"

    def credit(self, episode_id: str) -> str | None:
        """Return the address of an episode's credit; None if it has none."""
        return f"/e/{quote(episode_id, safe='')}/credit"

    def state(
        self, episode_id: str, pointer: str | None = None, at: int | None = None
    ) -> str | None:
        """Return the address of the history of a place of the state; None if it has none.

        Args:
            episode_id: The episode.
            pointer: The place; None for the list of all that changed.
            at: The step after which its value is told.
        """
        asked = {} if pointer is None else {"path": pointer}
        if at is not None:
            asked["at"] = str(at)
        query = f"?{urlencode(asked)}" if asked else ""
        return f"/e/{quote(episode_id, safe='')}/state{query}"

    def interface(self, digest: str) -> str | None:
        """Return the address of an interface; None if it has none."""
        return f"/i/{quote(digest, safe='')}"

    def diff(self, first_id: str, second_id: str) -> str | None:
        """Return the address of two episodes beside each other; None if it has none."""
        return f"/diff/{quote(first_id, safe='')}/{quote(second_id, safe='')}"


class ReportLinks(Links):
    """The addresses in a report: it is one file, and knows no other episode."""

    is_report = True

    def corpus(self) -> str | None:
        """Return None: a report has no corpus."""
        return None

    def episode(self, episode_id: str) -> str | None:
        """Return None: a report has no other episode."""
        return None

    def step(self, episode_id: str, step: int) -> str:
        """Return the address of a step: the part of the file's address behind `#`."""
        return f"#{step}"

    def diff(self, first_id: str, second_id: str) -> str | None:
        """Return None: a report has no other episode."""
        return None

    def forks(self, episode_id: str) -> str | None:
        """Return None: a report has no other episode."""
        return None

    def credit(self, episode_id: str) -> str | None:
        """Return None: a report has one page."""
        return None

    def state(
        self, episode_id: str, pointer: str | None = None, at: int | None = None
    ) -> str | None:
        """Return None: a report has one page."""
        return None

    def interface(self, digest: str) -> str | None:
        """Return None: a report has no other page."""
        return None
