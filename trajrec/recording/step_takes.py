"""Functions that take the values of a step: each fits the first value of its field."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import msgspec

from trajrec.errors import EncodeError
from trajrec.log.items import IRREGULAR, FieldLayout
from trajrec.recording.options import DIGESTED, StoredStates
from trajrec.recording.state_takes import make_digest_taker
from trajrec.recording.step_fields import Field, MisfitError, Take
from trajrec.recording.step_redaction import StepRedaction
from trajrec.types import Action, Info, Value
from trajrec.values import codec

# A few infos of another kind than the first are exceptions. If there are more, and they are a
# quarter of all, keys come and go: then each info is encoded at once, without an attempt that
# mostly fails.
_FEW_INFOS = 8
_MISFIT_SHARE = 4


class TakesOwner(Protocol):
    """The buffer, as its takes see it."""

    def field_added(self) -> None:
        """Note that `layouts` has one more field."""
        ...

    def clean_action(self, name: str, action: Action) -> Action:
        """Return an action without secrets."""
        ...


class StepTakes:
    """Takes the values of steps as parts of their rows, and says how they are laid out.

    The first value of a field decides how the field is kept. If a later one does not fit
    (MisfitError), the field is fitted anew in the next block, and then kept as encoded values.

    Args:
        owner: The buffer that adds the rows.
        stored_states: Which states the log has.
        capture: Returns the state, None if none is recorded.
        redaction: Takes the secrets out of values.

    Attributes:
        action: Returns an action's part of a row.
        obs: Returns an observation's part of a row.
        reward: Returns a reward's part of a row.
        state: Reads the state, and returns its part of a row.
        has_pixels: Whether rows are changes of the rows before.
    """

    action: Take
    obs: Take
    reward: Take
    state: Callable[[], Any]

    def __init__(
        self,
        owner: TakesOwner,
        stored_states: StoredStates,
        capture: Callable[[], Value] | None,
        redaction: StepRedaction,
    ) -> None:
        self.has_pixels = False
        self._owner = owner
        self._stored_states = stored_states
        self._capture = capture
        self._redaction = redaction
        self._fields: dict[str, Field] = {}
        self._n_infos = 0
        self._n_misfit_infos = 0
        # The fields that are kept as encoded values from the next block on.
        self._whole: set[str] = set()
        self._choose()

    @property
    def layouts(self) -> dict[str, FieldLayout]:
        """The layouts of the fields that had a value."""
        return {name: field.layout for name, field in self._fields.items()}

    @property
    def may_have_secrets(self) -> bool:
        """Whether texts are searched for secrets."""
        return any(field.take is not field.fit for field in self._fields.values())

    def extras(self, info: Info, *, with_state: bool) -> tuple[Any, ...]:
        """Return the fields that most rows do not have: the info and the whole state, or none."""
        info_part = None
        if info:
            try:
                info_part = self._take_info(info)
            except EncodeError:
                # A cycle, or a dtype that cannot be stored: the loop goes on without that part.
                info_part = self._take_info(codec.without_unstorable(info))
        state_part = self.whole_state() if with_state else None
        if info_part is None and state_part is None:
            return ()
        return (info_part, state_part)

    def whole_state(self) -> Any:
        """Return the whole state's part of a row if states are digested, else None."""
        if self._stored_states not in DIGESTED or self._capture is None:
            return None
        state = self._capture()
        field = self._fields.get("state") or self._add_field("state", state)
        try:
            return field.take(state)
        except MisfitError:
            # This state is not kept whole. Its digest is stored in any case.
            self._whole.add("state")
            return None

    def find_misfits(self, values: Mapping[str, Value]) -> None:
        """Look which fields the values of a step do not fit: the next block has them otherwise."""
        if self._stored_states == "every" and self._capture is not None:
            values = {**values, "state": self._capture()}
        for name, value in values.items():
            field = self._fields.get(name)
            if field is not None and not _is_fitting(field, value):
                self._whole.add(name)
                field.is_outdated = True

    def drop_outdated(self) -> None:
        """Drop the fields that are fitted anew in each block, and those that did not fit."""
        # The latter too are infos, and states that are kept whole now and then.
        has_digests = self._stored_states in DIGESTED
        fitted_anew = {"info", "state"} if has_digests else {"info"}
        fitted_anew |= {name for name, field in self._fields.items() if field.is_outdated}
        self._fields = {
            name: field for name, field in self._fields.items() if name not in fitted_anew
        }

    def begin_block(self) -> None:
        """Begin a block of the fields that are left."""
        for field in self._fields.values():
            field.begin_block()
        self._choose()

    def _choose(self) -> None:
        """Have the first value of each field that the block lacks decide how it is kept."""
        if "action" not in self._fields:
            self.action = self._first_take("action")
        if "obs" not in self._fields:
            self.obs = self._first_take("obs")
        if "reward" not in self._fields:
            self.reward = self._first_take("reward")
        if "state" not in self._fields:
            self.state = self._state_taker()

    def _first_take(self, name: str) -> Take:
        """Return a `take` for the first value of a field, which replaces itself."""

        def take_first(value: Value) -> Any:
            take = self._add_field(name, value).take
            setattr(self, name, take)
            return take(value)

        return take_first

    def _add_field(self, name: str, value: Value) -> Field:
        """Add a field fitted to its first value, which is not taken yet."""
        redaction = self._redaction
        clean = self._owner.clean_action if name == "action" else None
        text = redaction.rule(name, value, clean)
        if text.clean is not None:
            value = redaction.example(name, value)
        field = self._fields[name] = Field(name, value, whole=name in self._whole, text=text)
        self.has_pixels = self.has_pixels or field.has_pixels
        self._owner.field_added()
        return field

    def _state_taker(self) -> Callable[[], Any]:
        capture = self._capture
        if capture is None:
            return lambda: None
        if self._stored_states in DIGESTED:
            return make_digest_taker(
                capture,
                has_keys=self._stored_states == "key",
                replace=partial(setattr, self, "state"),
            )
        field = self._fields.get("state")
        if field is not None:
            take = field.take
            return lambda: take(capture())

        def take_first() -> Any:
            value = capture()
            self._add_field("state", value)
            self.state = self._state_taker()
            return self._fields["state"].take(value)

        return take_first

    def _take_info(self, info: Info) -> Any:
        """Return an info's part of a row: in columns if it is of the first one's kind."""
        self._n_infos += 1
        field = self._fields.get("info")
        if field is None:
            field = self._add_field("info", info)
        try:
            return field.take(info)
        except MisfitError:
            self._n_misfit_infos += 1
            if (
                self._n_misfit_infos > _FEW_INFOS
                and _MISFIT_SHARE * self._n_misfit_infos > self._n_infos
            ):
                self._whole.add("info")
            info = self._redaction.clean("info", info)
            return msgspec.msgpack.Ext(IRREGULAR, codec.encode(info, opaque=True))


def _is_fitting(field: Field, value: Value) -> bool:
    """Return whether a field takes a value. It is tried in a block that ends here."""
    try:
        field.fit(value)
    except MisfitError:
        return False
    return True
