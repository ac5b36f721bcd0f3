"""The database of Shop: its tables, and the rows that a shop begins with."""

from __future__ import annotations

from typing import Literal, TypedDict

import numpy as np

from trajrec.types import JsonObject

GOODS = ("lamp", "chair", "mug", "rug", "clock", "vase")
NAMES = ("Ada", "Ben", "Cleo", "Dov", "Eve", "Finn", "Gus", "Hana")

# The first day. Not 0, so that orders can have been placed before it.
TODAY = 100
SHIPPING_DAYS = 2
DELIVERY_DAYS = 3

Status = Literal["paid", "shipped", "delivered", "cancelled"]

# Status of the orders O1001 to O1006, which the tasks name; that of later orders is drawn.
FIRST_STATUSES: tuple[Status, ...] = (
    "delivered",
    "paid",
    "delivered",
    "delivered",
    "delivered",
    "shipped",
)
N_ORDERS = 12


class Customer(TypedDict):
    """A customer; the credit is in cents."""

    name: str
    address: str
    credit: int


class Order(TypedDict):
    """An order, paid when it is placed.

    Attributes:
        customer: Id of the customer.
        item: One of the goods.
        cents: Its price.
        status: Its present stage.
        ordered: Day of the order.
        shipped: Day of shipping, or None.
        delivered: Day of delivery, or None.
        approved: Whether a large refund is approved.
        refunded: Cents that are refunded already.
    """

    customer: str
    item: str
    cents: int
    status: Status
    ordered: int
    shipped: int | None
    delivered: int | None
    approved: bool
    refunded: int


class Payment(TypedDict):
    """The payment of an order; the next `outage` refunds of it fail with a timeout."""

    cents: int
    outage: int


class Message(TypedDict):
    """A message to a customer."""

    customer: str
    text: str


class Database(TypedDict):
    """All tables of a shop.

    Attributes:
        day: The present day.
        customers: By id, "C1" and so on.
        orders: By id, "O1001" and so on.
        payments: By the id of the order.
        stock: Number of each of the goods.
        messages: All messages, in the order in which they were sent.
    """

    day: int
    customers: dict[str, Customer]
    orders: dict[str, Order]
    payments: dict[str, Payment]
    stock: dict[str, int]
    messages: list[Message]


def empty_database() -> Database:
    """Return a database without rows."""
    return {
        "day": TODAY,
        "customers": {},
        "orders": {},
        "payments": {},
        "stock": {},
        "messages": [],
    }


def make_database(rng: np.random.Generator) -> Database:
    """Return the database of a new shop: four customers, twelve orders, six goods.

    The order of the draws decides the shop of a seed, so recorded episodes rely on it.
    """
    database = empty_database()
    names = [NAMES[int(index)] for index in rng.permutation(len(NAMES))]
    for number in range(1, 5):
        address = f"{int(rng.integers(1, 99))} Mill Lane"
        customer: Customer = {"name": names[number], "address": address, "credit": 0}
        database["customers"][f"C{number}"] = customer
    for index in range(N_ORDERS):
        key = order_key(index)
        order = _make_order(index, rng)
        database["orders"][key] = order
        database["payments"][key] = {"cents": order["cents"], "outage": _outage(index, rng)}
    database["stock"] = {item: int(rng.integers(0, 8)) for item in GOODS}
    # Two tasks need these goods: three lamps are too many, two chairs are not.
    database["stock"]["lamp"] = 1
    database["stock"]["chair"] = 5
    return database


def order_key(index: int) -> str:
    """Return the id of an order by its index."""
    return f"O{1001 + index}"


def new_order(*, customer: str, item: str, cents: int, day: int) -> Order:
    """Return an order that is paid on a day."""
    return {
        "customer": customer,
        "item": item,
        "cents": cents,
        "status": "paid",
        "ordered": day,
        "shipped": None,
        "delivered": None,
        "approved": False,
        "refunded": 0,
    }


def pass_day(database: Database) -> None:
    """Begin the next day: ship and deliver the orders that are due."""
    database["day"] += 1
    day = database["day"]
    for order in database["orders"].values():
        shipped = order["shipped"]
        if order["status"] == "paid" and day - order["ordered"] >= SHIPPING_DAYS:
            order["status"] = "shipped"
            order["shipped"] = day
        elif (
            order["status"] == "shipped" and shipped is not None and day - shipped >= DELIVERY_DAYS
        ):
            order["status"] = "delivered"
            order["delivered"] = day


def outcome(database: Database) -> JsonObject:
    """Return the parts of a database that a task is about.

    The text of messages and the number of timeouts are left out.
    """
    payments = {key: payment["cents"] for key, payment in database["payments"].items()}
    receivers = sorted(message["customer"] for message in database["messages"])
    return {**database, "messages": receivers, "payments": payments}


def _make_order(index: int, rng: np.random.Generator) -> Order:
    """Return an order that reached its status today; the last two reached it 60 days ago."""
    if index < len(FIRST_STATUSES):
        status = FIRST_STATUSES[index]
    else:
        drawn: tuple[Status, ...] = ("paid", "shipped", "delivered")
        status = drawn[int(rng.integers(3))]
    # The last two are too old for a refund, so a task can test whether the agent minds the policy.
    age = 60 if index >= N_ORDERS - 2 else int(rng.integers(2))
    reached = TODAY - age
    cents = int(rng.integers(*_price_range(index))) * 100
    item = GOODS[int(rng.integers(len(GOODS)))]
    order = new_order(customer=f"C{index % 4 + 1}", item=item, cents=cents, day=reached)
    order["status"] = status
    if status == "shipped":
        order["ordered"] = reached - SHIPPING_DAYS
        order["shipped"] = reached
    elif status == "delivered":
        order["ordered"] = reached - SHIPPING_DAYS - DELIVERY_DAYS
        order["shipped"] = reached - DELIVERY_DAYS
        order["delivered"] = reached
    return order


def _price_range(index: int) -> tuple[int, int]:
    """Return the range of an order's price, in units of 100 cents; the end is exclusive."""
    # O1001 is refunded without an approval, O1004 only with one.
    return {0: (50, 100), 3: (160, 200)}.get(index, (5, 150))


def _outage(index: int, rng: np.random.Generator) -> int:
    """Return how many refunds of an order fail: two of O1005, none of the other orders of tasks."""
    if index == 4:
        return 2
    return 0 if index < len(FIRST_STATUSES) else int(rng.integers(2))
