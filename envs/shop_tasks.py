"""The 22 tasks of Shop: the goal of each, and calls that reach it.

A task is solved when the database is as these calls leave it. The calls include the refunds that
time out, so the ground truth of a task is also a way to play it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from trajrec.envs.shop_database import Database, Status
from trajrec.envs.shop_tools import REFUND_DAYS
from trajrec.types import JsonObject

# The name of a tool, and arguments for it.
Call = tuple[str, JsonObject]

# The task "Restock everything ..." asks for goods of which fewer are in stock.
SCARCE = 3


class Task(NamedTuple):
    """A task.

    Attributes:
        text: The goal; {C1} stands for the name of the customer C1.
        calls: Returns the calls that solve the task, given the database before the first of them.
    """

    text: str
    calls: Callable[[Database], list[Call]]

    def goal(self, database: Database) -> str:
        """Return the goal with the names of the customers."""
        customers = database["customers"].items()
        return self.text.format(**{key: customer["name"] for key, customer in customers})


# Calls that several tasks share.


def _get(order: str) -> Call:
    return "get_order", {"order": order}


def _cancel(order: str) -> Call:
    return "cancel_order", {"order": order}


def _place(customer: str, item: str) -> Call:
    return "place_order", {"customer": customer, "item": item}


def _restock(item: str, count: int) -> Call:
    return "restock", {"item": item, "count": count}


def _give_credit(customer: str, cents: int) -> Call:
    return "apply_credit", {"customer": customer, "cents": cents}


def _move(customer: str, address: str) -> Call:
    return "update_address", {"customer": customer, "address": address}


def _tell(customer: str, text: str) -> Call:
    return "send_message", {"customer": customer, "text": text}


def _refund(database: Database, order: str, *, part: int = 1) -> list[Call]:
    """Refund one part of an order's price, once more for each time that the refund times out."""
    cents = database["orders"][order]["cents"] // part
    n_calls = 1 + database["payments"][order]["outage"]
    return [("refund_order", {"order": order, "cents": cents})] * n_calls


def _refund_and_tell(database: Database, orders: Iterable[str]) -> list[Call]:
    calls = []
    for order in orders:
        customer = database["orders"][order]["customer"]
        calls.append(_get(order))
        calls += _refund(database, order)
        calls.append(_tell(customer, f"Your order {order} is refunded."))
    return calls


def _orders_of(database: Database, customer: str) -> list[str]:
    return [key for key, order in database["orders"].items() if order["customer"] == customer]


def _orders_with(database: Database, status: Status) -> list[str]:
    return [key for key, order in database["orders"].items() if order["status"] == status]


# The calls of the tasks that need more than an expression.


def _tell_of_each_order(database: Database) -> list[Call]:
    calls: list[Call] = [("list_orders", {"customer": "C2"})]
    for order in _orders_of(database, "C2"):
        status = database["orders"][order]["status"]
        calls.append(_tell("C2", f"Your order {order} is {status}."))
    return calls


def _refund_with_approval(database: Database) -> list[Call]:
    return [
        ("read_policy", {}),
        _get("O1004"),
        ("request_approval", {"order": "O1004"}),
        *_refund(database, "O1004"),
    ]


def _restock_scarce(database: Database) -> list[Call]:
    stock = database["stock"]
    restocked = [_restock(item, 5) for item, count in stock.items() if count < SCARCE]
    return [("list_stock", {}), *restocked]


def _cancel_unshipped(database: Database) -> list[Call]:
    orders = _orders_of(database, "C2")
    calls: list[Call] = [("list_orders", {"customer": "C2"}), *map(_get, orders)]
    for order in orders:
        if database["orders"][order]["status"] == "paid":
            calls += [_cancel(order), *_refund(database, order)]
    return calls


def _replace_broken(database: Database) -> list[Call]:
    order = database["orders"]["O1003"]
    return [
        _get("O1003"),
        *_refund(database, "O1003"),
        _restock(order["item"], 1),
        _place(order["customer"], order["item"]),
    ]


def _ship_paid(database: Database) -> list[Call]:
    shipped = [("ship_order", {"order": order}) for order in _orders_with(database, "paid")]
    return [*map(_get, database["orders"]), *shipped]


def _move_and_give_credit(database: Database) -> list[Call]:
    return [
        ("find_customer", {"name": database["customers"]["C3"]["name"]}),
        _move("C3", "1 Quay"),
        _give_credit("C3", 300),
    ]


def _thank_dearest(database: Database) -> list[Call]:
    orders = database["orders"]
    # Among equal prices the last order.
    dearest = max(orders, key=lambda order: (orders[order]["cents"], order))
    thanks = _tell(orders[dearest]["customer"], "Thank you for your order!")
    return [*map(_get, orders), thanks]


def _tell_of_shipping(database: Database) -> list[Call]:
    orders = database["orders"]
    messages = [
        _tell(orders[order]["customer"], f"Your order {order} is on its way.")
        for order in _orders_with(database, "shipped")
    ]
    return [*map(_get, orders), *messages]


def _refund_tenths(database: Database) -> list[Call]:
    calls = [_get(order) for order in database["orders"]]
    for key, order in database["orders"].items():
        delivered = order["delivered"]
        if delivered is not None and database["day"] - delivered <= REFUND_DAYS:
            calls += _refund(database, key, part=10)
    return calls


def _work_through_queue(database: Database) -> list[Call]:
    return [
        ("read_policy", {}),
        _get("O1001"),
        *_refund(database, "O1001"),
        _tell("C1", "Your order O1001 is refunded."),
        _cancel("O1002"),
        *_refund(database, "O1002"),
        _move("C3", "5 Harbour Street"),
        *_refund(database, "O1003", part=2),
        _give_credit("C4", 500),
        _restock("lamp", 4),
        _place("C2", "chair"),
        _tell("C2", "A chair is on its way."),
    ]


# The order is part of recorded episodes: `options={"task": 2}` must stay the same task. The goals
# are recorded too, so another text would make old episodes diverge.
TASKS = (
    Task(
        "Refund order O1001 of customer C1 ({C1}) in full, and tell them.",
        lambda database: _refund_and_tell(database, ["O1001"]),
    ),
    Task(
        "Cancel order O1002 and refund it in full.",
        lambda database: [_cancel("O1002"), *_refund(database, "O1002")],
    ),
    Task(
        "Customer C3 moved to 5 Harbour Street. Change the address, and change nothing else.",
        lambda _: [_move("C3", "5 Harbour Street")],
    ),
    Task(
        "Refund half of order O1003 (delivered damaged).",
        lambda database: [_get("O1003"), *_refund(database, "O1003", part=2)],
    ),
    Task(
        "Send customer C2 one message for each of their orders, and change nothing.",
        _tell_of_each_order,
    ),
    Task(
        "Refund order O1005 in full and tell the customer. "
        "The payment provider may not answer at once.",
        lambda database: _refund_and_tell(database, ["O1005"]),
    ),
    Task("Refund order O1004 in full; mind the policy.", _refund_with_approval),
    Task(
        "Customer C4 orders two chairs, as two orders.",
        lambda _: [("list_stock", {}), *[_place("C4", "chair")] * 2],
    ),
    Task(
        "Customer C1 wants three lamps, as three orders. "
        "Restock three first where there are too few.",
        lambda _: [("list_stock", {}), _restock("lamp", 3), *[_place("C1", "lamp")] * 3],
    ),
    Task(
        "Order O1006 is on its way. Wait 3 days, then refund it in full and tell the customer.",
        lambda database: [("wait", {"days": 3}), *_refund_and_tell(database, ["O1006"])],
    ),
    Task(
        "Give customer C1 a credit of 500 cents and tell them.",
        lambda _: [_give_credit("C1", 500), _tell("C1", "We gave you a credit of 5.00.")],
    ),
    Task("Restock everything of which there are fewer than 3, by 5.", _restock_scarce),
    Task(
        "Cancel all of customer C2's orders that are not shipped yet, and refund each in full.",
        _cancel_unshipped,
    ),
    Task(
        "The item of order O1003 came broken: refund it in full, restock one, "
        "and order it again for the customer.",
        _replace_broken,
    ),
    Task("Ship every paid order today.", _ship_paid),
    Task(
        "Refund orders O1001, O1003 and O1005 in full, "
        "and tell each customer, one message an order.",
        lambda database: _refund_and_tell(database, ["O1001", "O1003", "O1005"]),
    ),
    Task(
        "{C3} moved to 1 Quay and gets a credit of 300 cents for the trouble.",
        _move_and_give_credit,
    ),
    Task("Thank the customer of the dearest order with a message.", _thank_dearest),
    Task(
        "Tell the customer of every shipped order that it is on its way, one message an order.",
        _tell_of_shipping,
    ),
    Task(
        "Refund a tenth of every delivered order that may still be refunded.",
        _refund_tenths,
    ),
    Task(
        "Two days go by. Then tell customer C2 that order O1002 was shipped.",
        lambda _: [
            ("wait", {"days": 2}),
            _get("O1002"),
            _tell("C2", "Your order O1002 was shipped."),
        ],
    ),
    Task(
        "Work through the queue: refund O1001 in full and tell the customer; cancel O1002 and "
        "refund it; C3 moved to 5 Harbour Street; refund half of O1003; a credit of 500 cents for "
        "C4; restock 4 lamps; order a chair for C2 and tell them.",
        _work_through_queue,
    ),
)
