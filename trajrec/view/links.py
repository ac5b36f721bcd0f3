"""Addresses of pages. A report has none but those of its own steps."""

from __future__ import annotations

from urllib.parse import quote


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

    def interface(self, digest: str) -> str | None:
        """Return None: a report has no other page."""
        return None
