"""A few runs under fire drawn from a seed, the same every time; `make soak` makes as many as there is time for.

Below them one fault alone, where what it must come to is known.
"""

from __future__ import annotations

import pytest

from tests.faults.conftest import LONG, Fire
from tests.faults.proxy import Wire
from tests.faults.scene import Place
from tests.faults.script import ALL_KINDS, Kind, Script, Start, Strike, draw

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SEED = 20261121
SHARDS = 12  # about
NO_CLUSTER = [kind for kind in ALL_KINDS if kind is not Kind.NODE_LOST]


@pytest.mark.parametrize("number", [10, *(pytest.param(number, marks=LONG) for number in (5, 7, 11))])
def test_drawn_local(number: int, fire: Fire) -> None:
    fire(draw(SEED, number, SHARDS, ["local"], NO_CLUSTER))


@pytest.mark.s3
@LONG
@pytest.mark.parametrize("number", [16, 2, 7, 12])
def test_drawn_s3(number: int, fire: Fire) -> None:
    fire(draw(SEED, number, SHARDS, ["s3"], NO_CLUSTER))


def alone(name: str, place: str, *strikes: Strike, wire: dict[Wire, float] | None = None, shift: int = 0) -> Script:
    """Two replicas, an empty output, one start."""
    return Script(name, 0, place, 1, 2, False, (Start(strikes, wire, shift),))


@LONG
@pytest.mark.s3
def test_the_server_crashes_while_parts_are_put(fire: Fire, s3_place: Place) -> None:
    """All its daemons, in the middle of the parts. No upload in parts was ever begun, so none can be left half-way."""
    record = fire(alone("crash", "s3", Strike(Kind.SERVER_CRASHED, 2, 0.05, lasts=2.0)))
    assert [rc for rc, _ in record["starts"]] == [0]
    assert record["injected"] == {"server_crashed": 1}
    assert s3_place.proxy is not None
    assert s3_place.proxy.requests["PUT"] > record["shards"]
    assert s3_place.proxy.requests["multipart"] == 0


@pytest.mark.s3
@pytest.mark.parametrize(
    ("name", "wire"),
    [
        pytest.param("lost acknowledgements", {Wire.LOST_ACK_RESET: 0.15, Wire.LOST_ACK_500: 0.15}, marks=LONG),
        pytest.param("one in twenty fails", {Wire.ERROR_500: 0.025, Wire.SLOW_DOWN: 0.025}, marks=LONG),
        ("damaged answers", {Wire.TRUNCATED: 0.15, Wire.FLIPPED: 0.15}),
    ],
)
def test_a_faulty_wire_costs_nothing(name: str, wire: dict[Wire, float], fire: Fire) -> None:
    """Over and done at the first start."""
    record = fire(alone(name.replace(" ", "-"), "s3", wire=wire))
    assert [rc for rc, _ in record["starts"]] == [0]
    assert all(record["injected"].get(str(fault), 0) > 0 for fault in wire), record["injected"]
