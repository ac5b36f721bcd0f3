"""The results of exports."""

from __future__ import annotations

import msgspec

from trajrec.exchange.account import Account


class ExportReport(msgspec.Struct, kw_only=True):
    """The result of an export.

    Attributes:
        n_episodes: The episodes that were written, without those inside of others.
        account: What they held, and what became of it.
    """

    n_episodes: int = 0
    account: Account = msgspec.field(default_factory=Account)
