"""A run's receipts in memory are a plain mapping to look at, however they are kept."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.state import receipts as module
from jobs.state.receipts import Files, Receipts
from tests.jobs.ledger_samples import receipt

numbers = st.integers(0, 5000) | st.integers(0, 10**9)


@settings(deadline=None)
@given(st.lists(st.tuples(numbers, st.integers(0, 9)), max_size=60), st.integers(0, 20_000))
def test_it_holds_what_was_added_last(added: list[tuple[int, int]], loose: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LOOSE_BYTES", loose)
        held, plain = Receipts(), {}
        for number, documents in added:
            plain[number] = receipt(number, documents)
            held.add(plain[number])
            assert held[number] == plain[number]
    assert held == plain
    assert len(held) == len(plain)
    assert list(held) == sorted(plain)
    assert list(held.values()) == [plain[number] for number in sorted(plain)]
    for number in [*plain, *(number + 1 for number in plain), -1]:
        assert (number in held) is (number in plain)
        assert held.get(number) == plain.get(number)
    assert list(Files(held)) == [file for number in sorted(plain) for file in plain[number].files]


def test_what_is_no_number_of_a_shard_is_not_in_it() -> None:
    held = Receipts([receipt(0)])
    assert None not in held
    assert "0" not in held
    with pytest.raises(KeyError):
        held[1]


@pytest.mark.slow
def test_many_take_little_memory() -> None:
    """Some hundred bytes each, digests that cannot be packed among them; as objects they would take thirteen times that."""
    draw = random.Random(7)
    held = Receipts()
    count = 40_000
    for number in range(count):
        body = receipt(number).to_json().replace(b'"sha256": ""', b'"sha256": "%064x"' % draw.getrandbits(256))
        held.add_json(number, body)
    assert not held._loose, "a thousand neighbours that are all there are packed at once"
    assert held._loose_bytes == 0
    assert sum(len(data) for chunks in held._packed.values() for _, data in chunks) < 100 * count
    assert held[12_345].shard == 12_345
