"""The shop's tasks: what is asked, and calls that do it. A task is solved when the database is as these calls leave it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

GOODS = ("lamp", "chair", "mug", "rug", "clock", "vase")
Database = dict[str, Any]
Call = tuple[str, dict[str, Any]]


class Task(NamedTuple):
    """A task: what the customer wants, and the calls that do it, both from the database as it is at first."""

    goal: Callable[[Database], str]
    calls: Callable[[Database], list[Call]]


def _get(order: str) -> Call:
    return "get_order", {"order": order}


def _tell(customer: str, text: str) -> Call:
    return "send_message", {"customer": customer, "text": text}


def _refund(d: Database, order: str, cents: int | None = None) -> list[Call]:
    """A refund, tried again as often as the payment provider does not answer."""
    wanted = d["orders"][order]["cents"] if cents is None else cents
    return [("refund_order", {"order": order, "cents": wanted})] * (
        1 + d["payments"][order]["outage"]
    )


def _refund_and_tell(d: Database, orders: Iterable[str]) -> list[Call]:
    calls = []
    for order in orders:
        calls += [
            _get(order),
            *_refund(d, order),
            _tell(d["orders"][order]["customer"], f"Your order {order} is refunded."),
        ]
    return calls


def _of(d: Database, customer: str, status: str = "") -> list[str]:
    rows = d["orders"].items()
    return [
        key
        for key, order in rows
        if order["customer"] == customer and (not status or order["status"] == status)
    ]


def _with(d: Database, status: str) -> list[str]:
    return [key for key, order in d["orders"].items() if order["status"] == status]


def _refundable(d: Database) -> list[str]:
    return [key for key in _with(d, "delivered") if d["day"] - d["orders"][key]["delivered"] <= 30]


def _cancel(d: Database, orders: Iterable[str]) -> list[Call]:
    return [call for key in orders for call in (("cancel_order", {"order": key}), *_refund(d, key))]


def _scarce(d: Database) -> list[str]:
    return [item for item, n in d["stock"].items() if n < 3]


def _dearest(d: Database) -> str:
    return str(max(d["orders"], key=lambda key: (d["orders"][key]["cents"], key)))


def _queue(d: Database) -> list[Call]:
    return [
        ("read_policy", {}),
        _get("O1001"),
        *_refund(d, "O1001"),
        _tell("C1", "Your order O1001 is refunded."),
        ("cancel_order", {"order": "O1002"}),
        *_refund(d, "O1002"),
        ("update_address", {"customer": "C3", "address": "5 Harbour Street"}),
        *_refund(d, "O1003", d["orders"]["O1003"]["cents"] // 2),
        ("apply_credit", {"customer": "C4", "cents": 500}),
        ("restock", {"item": "lamp", "count": 4}),
        ("place_order", {"customer": "C2", "item": "chair"}),
        _tell("C2", "A chair is on its way."),
    ]


TASKS = (
    Task(
        lambda d: (
            f"Refund order O1001 of customer C1 ({d['customers']['C1']['name']}) in full, and tell them."
        ),
        lambda d: _refund_and_tell(d, ["O1001"]),
    ),
    Task(lambda d: "Cancel order O1002 and refund it in full.", lambda d: _cancel(d, ["O1002"])),
    Task(
        lambda d: (
            "Customer C3 moved to 5 Harbour Street. Change the address, and change nothing else."
        ),
        lambda d: [("update_address", {"customer": "C3", "address": "5 Harbour Street"})],
    ),
    Task(
        lambda d: "Refund half of order O1003 (delivered damaged).",
        lambda d: [_get("O1003"), *_refund(d, "O1003", d["orders"]["O1003"]["cents"] // 2)],
    ),
    Task(
        lambda d: "Send customer C2 one message for each of their orders, and change nothing.",
        lambda d: [
            ("list_orders", {"customer": "C2"}),
            *(
                _tell("C2", f"Your order {key} is {d['orders'][key]['status']}.")
                for key in _of(d, "C2")
            ),
        ],
    ),
    Task(
        lambda d: (
            "Refund order O1005 in full and tell the customer. The payment provider may not answer at once."
        ),
        lambda d: _refund_and_tell(d, ["O1005"]),
    ),
    Task(
        lambda d: "Refund order O1004 in full; mind the policy.",
        lambda d: [
            ("read_policy", {}),
            _get("O1004"),
            ("request_approval", {"order": "O1004"}),
            *_refund(d, "O1004"),
        ],
    ),
    Task(
        lambda d: "Customer C4 orders two chairs, as two orders.",
        lambda d: [("list_stock", {}), *[("place_order", {"customer": "C4", "item": "chair"})] * 2],
    ),
    Task(
        lambda d: (
            "Customer C1 wants three lamps, as three orders. Restock three first where there are too few."
        ),
        lambda d: [
            ("list_stock", {}),
            ("restock", {"item": "lamp", "count": 3}),
            *[("place_order", {"customer": "C1", "item": "lamp"})] * 3,
        ],
    ),
    Task(
        lambda d: (
            "Order O1006 is on its way. Wait 3 days, then refund it in full and tell the customer."
        ),
        lambda d: [("wait", {"days": 3}), *_refund_and_tell(d, ["O1006"])],
    ),
    Task(
        lambda d: "Give customer C1 a credit of 500 cents and tell them.",
        lambda d: [
            ("apply_credit", {"customer": "C1", "cents": 500}),
            _tell("C1", "We gave you a credit of 5.00."),
        ],
    ),
    Task(
        lambda d: "Restock everything of which there are fewer than 3, by 5.",
        lambda d: [
            ("list_stock", {}),
            *(("restock", {"item": item, "count": 5}) for item in _scarce(d)),
        ],
    ),
    Task(
        lambda d: (
            "Cancel all of customer C2's orders that are not shipped yet, and refund each in full."
        ),
        lambda d: [
            ("list_orders", {"customer": "C2"}),
            *map(_get, _of(d, "C2")),
            *_cancel(d, _of(d, "C2", "paid")),
        ],
    ),
    Task(
        lambda d: (
            "The item of order O1003 came broken: refund it in full, restock one, and order it again for the customer."
        ),
        lambda d: [
            _get("O1003"),
            *_refund(d, "O1003"),
            ("restock", {"item": d["orders"]["O1003"]["item"], "count": 1}),
            (
                "place_order",
                {
                    "customer": d["orders"]["O1003"]["customer"],
                    "item": d["orders"]["O1003"]["item"],
                },
            ),
        ],
    ),
    Task(
        lambda d: "Ship every paid order today.",
        lambda d: [
            *map(_get, d["orders"]),
            *(("ship_order", {"order": key}) for key in _with(d, "paid")),
        ],
    ),
    Task(
        lambda d: (
            "Refund orders O1001, O1003 and O1005 in full, and tell each customer, one message an order."
        ),
        lambda d: _refund_and_tell(d, ["O1001", "O1003", "O1005"]),
    ),
    Task(
        lambda d: (
            f"{d['customers']['C3']['name']} moved to 1 Quay and gets a credit of 300 cents for the trouble."
        ),
        lambda d: [
            ("find_customer", {"name": d["customers"]["C3"]["name"]}),
            ("update_address", {"customer": "C3", "address": "1 Quay"}),
            ("apply_credit", {"customer": "C3", "cents": 300}),
        ],
    ),
    Task(
        lambda d: "Thank the customer of the dearest order with a message.",
        lambda d: [
            *map(_get, d["orders"]),
            _tell(d["orders"][_dearest(d)]["customer"], "Thank you for your order!"),
        ],
    ),
    Task(
        lambda d: (
            "Tell the customer of every shipped order that it is on its way, one message an order."
        ),
        lambda d: [
            *map(_get, d["orders"]),
            *(
                _tell(d["orders"][key]["customer"], f"Your order {key} is on its way.")
                for key in _with(d, "shipped")
            ),
        ],
    ),
    Task(
        lambda d: "Refund a tenth of every delivered order that may still be refunded.",
        lambda d: [
            *map(_get, d["orders"]),
            *(
                call
                for key in _refundable(d)
                for call in _refund(d, key, d["orders"][key]["cents"] // 10)
            ),
        ],
    ),
    Task(
        lambda d: "Two days go by. Then tell customer C2 that order O1002 was shipped.",
        lambda d: [
            ("wait", {"days": 2}),
            _get("O1002"),
            _tell("C2", "Your order O1002 was shipped."),
        ],
    ),
    Task(
        lambda d: (
            "Work through the queue: refund O1001 in full and tell the customer; cancel O1002 and refund it; C3 moved to "
            "5 Harbour Street; refund half of O1003; a credit of 500 cents for C4; "
            "restock 4 lamps; order a chair for C2 and tell them."
        ),
        _queue,
    ),
)
