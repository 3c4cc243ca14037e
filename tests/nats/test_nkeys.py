"""User nkeys, against the reference implementation."""

from __future__ import annotations

import nkeys as reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.nats import nkeys


@settings(max_examples=30)
@given(st.binary(min_size=32, max_size=32))
def test_same_keys_as_the_reference(entropy: bytes) -> None:
    """A seed of ours is read by the nkeys package, which derives the same public key."""
    key = nkeys.generate(entropy)
    assert reference.from_seed(key.seed.encode()).public_key.decode() == key.public
    assert nkeys.from_seed(key.seed) == key


def test_public_and_private_are_told_apart() -> None:
    """A public key starts with U, a seed with SU; a seed is never shown."""
    key = nkeys.generate()
    assert key.public.startswith("U")
    assert key.seed.startswith("SU")
    assert key.seed not in repr(key)


@pytest.mark.parametrize("text", ["", "SU", "SUAAA", "UAAAA", "not base32!"])
def test_what_is_no_seed_is_refused_without_quoting_it(text: str) -> None:
    """An error about a seed does not hold it."""
    with pytest.raises(ValueError, match=r"^not an? (user )?nkey seed$"):
        nkeys.from_seed(text)


def test_a_damaged_seed_is_refused() -> None:
    """The checksum is checked."""
    seed = nkeys.generate().seed
    with pytest.raises(ValueError, match="nkey seed"):
        nkeys.from_seed(seed[:20] + ("A" if seed[20] != "A" else "B") + seed[21:])
