"""Tokens: what is accepted, and all that is not."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from immutables import Map

from shared.keys import tokens
from shared.keys.tokens import Principal, TokenIssuer, TokenRefused, TokenVerifier

KEY = tokens.create_signing_key()
OTHER_KEY = tokens.create_signing_key()
ISSUER = TokenIssuer(KEY)
VERIFIER = TokenVerifier({"1": tokens.public_key_of(KEY)})


def forge(claims: dict[str, Any], *, key: str = KEY, **header: Any) -> str:
    now = datetime.now(UTC)
    times = {"iat": now, "exp": now + timedelta(hours=1), "jti": "j"}
    return jwt.encode({**times, **claims}, key, algorithm="RS256", headers={"kid": "1", **header})


def test_a_user_token_names_its_subject_and_roles() -> None:
    """The principal of a user token has the subject that events will name, and its roles."""
    who = VERIFIER.authenticate(ISSUER.user_token("ana", ("admin",), 60))
    assert who is not None
    assert (who.kind, who.subject, who.roles) == ("user", "ana", ("admin",))
    assert who.jti


def test_a_user_token_may_be_limited_to_meshes_and_zones() -> None:
    """Only one that may not write; a limit to nothing, and limits of a proxy's token, are refused."""
    limited = VERIFIER.check(ISSUER.user_token("ana", (), 60, meshes=["red"], zones=["east", "west"]))
    assert (limited.meshes, limited.zones) == (("red",), ("east", "west"))
    assert VERIFIER.check(ISSUER.user_token("ana", (), 60)).meshes == ()
    with pytest.raises(ValueError, match="cannot be limited"):
        ISSUER.user_token("ana", ("admin",), 60, zones=["east"])
    for claims in ({"sub": "a", "roles": ["admin"], "Meshes": ["m"]}, {"sub": "a", "Zones": []}):
        with pytest.raises(TokenRefused, match="limited"):
            VERIFIER.check(forge(claims))
    with pytest.raises(TokenRefused, match="only a user's"):
        VERIFIER.check(forge({"Mesh": "m", "Type": "dataplane", "Meshes": ["m"]}))


def test_proxy_tokens_bind_their_proxy() -> None:
    """Dataplane and egress tokens carry what they bind, and no roles."""
    sidecar = VERIFIER.check(
        ISSUER.dataplane_token("default", 60, name="web-1", zone="east", tags={"team": ("a", "b")})
    )
    assert (sidecar.kind, sidecar.mesh, sidecar.name, sidecar.zone) == ("dataplane", "default", "web-1", "east")
    assert sidecar.tags == Map({"team": ("a", "b")})
    assert sidecar.roles == ()
    assert sidecar.subject == "dataplane/default/east/web-1"
    egress = VERIFIER.check(ISSUER.egress_token("east", 60))
    assert (egress.kind, egress.zone, egress.name) == ("egress", "east", "")


def test_kumas_spelling_is_read_in_any_case() -> None:
    """Claims are found whatever their case, and an empty type is a dataplane."""
    assert VERIFIER.check(forge({"name": "a", "MESH": "m", "Type": ""})).mesh == "m"
    with pytest.raises(TokenRefused, match="twice"):
        VERIFIER.check(forge({"Mesh": "m", "mesh": "n"}))


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "ana", "Type": "egress", "Zone": "east"},
        {"sub": "ana", "Mesh": "default"},
        {"Type": "ingress", "Zone": "east"},
        {"Type": "egress"},
        {"Type": "dataplane"},
        {"Mesh": "default", "roles": ["admin"]},
        {"roles": ["admin"]},
        {},
        {"sub": "ana", "roles": "admin"},
        {"sub": 7},
    ],
)
def test_a_token_is_of_exactly_one_kind(claims: dict[str, Any]) -> None:
    """Claims that fit two kinds, none, or have the wrong type are refused, whoever signed them."""
    assert VERIFIER.authenticate(forge(claims)) is None


def test_expired_tokens_are_refused() -> None:
    """After its end, a few seconds of leeway apart, a token counts no more."""
    past = TokenIssuer(KEY, clock=lambda: datetime.now(UTC) - timedelta(hours=1))
    assert VERIFIER.authenticate(past.user_token("ana", (), 3500)) is None
    assert VERIFIER.authenticate(past.user_token("ana", (), 3598)) is not None
    future = TokenIssuer(KEY, clock=lambda: datetime.now(UTC) + timedelta(hours=1))
    assert VERIFIER.authenticate(future.user_token("ana", (), 60)) is None


def test_other_keys_are_refused() -> None:
    """A token of another key, or naming a key nobody knows, is refused."""
    assert VERIFIER.authenticate(TokenIssuer(OTHER_KEY).user_token("ana", (), 60)) is None
    assert VERIFIER.authenticate(TokenIssuer(KEY, kid="2").user_token("ana", (), 60)) is None
    both = TokenVerifier({"1": tokens.public_key_of(KEY), "2": tokens.public_key_of(OTHER_KEY)})
    assert both.authenticate(TokenIssuer(OTHER_KEY, kid="2").user_token("ana", (), 60)) is not None


def encoded(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "ES256", "RS512"])
def test_only_one_algorithm_is_accepted(algorithm: str) -> None:
    """`alg` in the header chooses nothing: unsigned tokens, and HMAC with the public key, are refused."""
    now = int(datetime.now(UTC).timestamp())
    claims = {"sub": "ana", "roles": ["admin"], "iat": now, "exp": now + 60, "jti": "j"}
    head = encoded({"alg": algorithm, "typ": "JWT", "kid": "1"}) + "." + encoded(claims)
    signatures = ["", jwt.encode(claims, "x" * 64, algorithm="HS256").rsplit(".", 1)[1]]
    if algorithm == "HS256":
        mac = jwt.get_algorithm_by_name("HS256")
        public = tokens.public_key_of(KEY).encode()
        signatures.append(base64.urlsafe_b64encode(mac.sign(head.encode(), public)).rstrip(b"=").decode())
    for signature in signatures:
        assert VERIFIER.authenticate(f"{head}.{signature}") is None


@pytest.mark.parametrize("missing", ["exp", "iat", "jti"])
def test_times_and_identity_are_mandatory(missing: str) -> None:
    """A token without expiry, time of issue or identity is refused."""
    now = int(datetime.now(UTC).timestamp())
    claims = {"sub": "ana", "iat": now, "exp": now + 60, "jti": "j"}
    del claims[missing]
    assert VERIFIER.authenticate(jwt.encode(claims, KEY, algorithm="RS256", headers={"kid": "1"})) is None


def test_revoked_tokens_are_refused() -> None:
    """A token whose jti is on the list counts no more, from the moment it is on it."""
    revoked: set[str] = set()
    verifier = TokenVerifier({"1": tokens.public_key_of(KEY)}, revoked=revoked)
    token = ISSUER.user_token("ana", ("admin",), 60)
    revoked.add(verifier.check(token).jti)
    assert verifier.authenticate(token) is None


def test_a_token_that_was_accepted_expires_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token whose signature is known is refused from the moment it expires."""
    token = ISSUER.user_token("ana", (), 60)
    assert VERIFIER.authenticate(token) == VERIFIER.authenticate(token) is not None
    for seconds, accepted in ((60, True), (60 + tokens.LEEWAY_SECONDS + 1, False)):
        monkeypatch.setattr(tokens, "wall_clock", lambda ahead=seconds: datetime.now(UTC) + timedelta(seconds=ahead))
        assert (VERIFIER.authenticate(token) is not None) is accepted


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=100).map(lambda raw: raw.decode("latin-1")))
def test_rubbish_is_refused_without_a_crash(text: str) -> None:
    """Whatever is sent as a token is refused, not raised."""
    assert VERIFIER.authenticate(text) is None
    assert VERIFIER.authenticate(f"{encoded({'alg': 'RS256', 'kid': '1'})}.{text}.x") is None


def test_the_reason_does_not_repeat_the_token() -> None:
    """What is refused is not printed."""
    token = TokenIssuer(OTHER_KEY).user_token("ana", (), 60)
    with pytest.raises(TokenRefused) as caught:
        VERIFIER.check(token)
    assert token not in str(caught.value)
    assert token.rsplit(".", 1)[1] not in str(caught.value)
    with pytest.raises(TokenRefused, match="longer"):
        VERIFIER.check("x" * 20_000)


def test_principals_are_values() -> None:
    """Two equal principals are one: caches may key on them."""
    assert hash(Principal("user", "ana")) == hash(Principal("user", "ana"))
