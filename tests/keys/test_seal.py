"""Sealing: round trips, tampering, readers."""

from __future__ import annotations

from base64 import b64decode, b64encode

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events.event import DataKeyWrapped
from shared.keys.seal import Keyring, Sealer, Unreadable
from shared.model.resource import Sealed

RINGS = {name: Keyring(name, X25519PrivateKey.generate()) for name in ("global", "east", "west")}
PUBLIC = {name: ring.public for name, ring in RINGS.items()}


def by_kid(*wraps: DataKeyWrapped) -> dict[str, dict[str, str]]:
    out: dict[str, dict[str, str]] = {}
    for one in wraps:
        out.setdefault(one.kid, {})[one.recipient] = one.wrapped
    return out


def flip(text: str, bit: int) -> str:
    raw = bytearray(b64decode(text))
    raw[bit // 8 % len(raw)] ^= 1 << bit % 8
    return b64encode(bytes(raw)).decode()


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=4096))
def test_every_recipient_reads_what_was_sealed(plaintext: bytes) -> None:
    """What is sealed is read back, whole, by each recipient with its own wrap."""
    sealed, wraps = Sealer(PUBLIC).seal(plaintext)
    assert [one.recipient for one in wraps] == ["east", "global", "west"]
    for ring in RINGS.values():
        assert ring.unseal(sealed, by_kid(*wraps)) == plaintext


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=64), st.sampled_from(("nonce", "ciphertext", "wrap")), st.integers(0, 2**12))
def test_any_flipped_bit_makes_it_unreadable(plaintext: bytes, where: str, bit: int) -> None:
    """One flipped bit in nonce, ciphertext or wrap is Unreadable, never other plaintext."""
    sealed, wraps = Sealer({"east": PUBLIC["east"]}).seal(plaintext)
    keys = by_kid(*wraps)
    if where == "wrap":
        wrapped = keys[sealed.kid]["east"]
        # X25519 ignores the top bit of a public key, but the salt does not.
        keys[sealed.kid]["east"] = flip(wrapped, bit)
    else:
        sealed = msgspec.structs.replace(sealed, **{where: flip(getattr(sealed, where), bit)})
    with pytest.raises(Unreadable):
        RINGS["east"].unseal(sealed, keys)


def test_the_key_id_is_bound() -> None:
    """A ciphertext moved under another key id is Unreadable even with the same data key."""
    sealed, wraps = Sealer(PUBLIC).seal(b"x")
    keys = by_kid(*wraps)
    moved = msgspec.structs.replace(sealed, kid="other")
    with pytest.raises(Unreadable):
        RINGS["east"].unseal(moved, {**keys, "other": keys[sealed.kid]})


def test_a_zone_reads_only_its_own_wrap() -> None:
    """A zone that got no wrap, or somebody else's under its name, cannot read; the reason says which."""
    sealed, wraps = Sealer(PUBLIC).seal(b"x", only=("global",))
    keys = by_kid(*wraps)
    with pytest.raises(Unreadable, match="not wrapped for east"):
        RINGS["east"].unseal(sealed, keys)
    keys[sealed.kid]["east"] = keys[sealed.kid]["global"]
    with pytest.raises(Unreadable, match="does not open with the key of east"):
        RINGS["east"].unseal(sealed, keys)


def test_a_shredded_key_is_named() -> None:
    """With its data key deleted a secret is gone, and the reason says so."""
    sealed, _ = Sealer(PUBLIC).seal(b"x")
    with pytest.raises(Unreadable, match="shredded"):
        RINGS["global"].unseal(sealed, {})


def test_a_later_zone_gets_a_wrap_of_its_own() -> None:
    """A data key is wrapped again for a zone that came later, by anyone who can read it."""
    sealed, wraps = Sealer({"global": PUBLIC["global"]}).seal(b"late")
    keys = by_kid(*wraps)
    late = RINGS["global"].rewrap(sealed.kid, keys, "west", PUBLIC["west"])
    assert RINGS["west"].unseal(sealed, by_kid(*wraps, late)) == b"late"


def test_digests_show_equality_only_under_one_digest_key() -> None:
    """Equal plaintexts have equal digests under one digest key, and unrelated ones without."""
    keyed = Sealer(PUBLIC, digest_key=RINGS["global"].digest_key)
    one, two, other = (keyed.seal(text)[0] for text in (b"a", b"a", b"b"))
    assert one.digest == two.digest != other.digest
    assert one.ciphertext != two.ciphertext
    assert keyed.matches(one, b"a")
    assert not keyed.matches(one, b"b")
    plain = Sealer(PUBLIC)
    assert plain.seal(b"a")[0].digest != plain.seal(b"a")[0].digest


@pytest.mark.parametrize("field", ["nonce", "ciphertext"])
def test_what_is_not_base64_is_unreadable(field: str) -> None:
    """Rubbish in the log is Unreadable with a reason, not a crash."""
    sealed, wraps = Sealer(PUBLIC).seal(b"x")
    broken: Sealed = msgspec.structs.replace(sealed, **{field: "%%%"})
    with pytest.raises(Unreadable, match="not base64"):
        RINGS["global"].unseal(broken, by_kid(*wraps))


def test_short_rubbish_wraps_are_unreadable() -> None:
    """A truncated wrap, or one with a low-order point, is Unreadable."""
    sealed, _ = Sealer(PUBLIC).seal(b"x")
    for raw in (b"", b"abc", bytes(80)):
        with pytest.raises(Unreadable):
            RINGS["east"].unseal(sealed, {sealed.kid: {"east": b64encode(raw).decode()}})
