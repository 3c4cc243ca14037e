"""A CA that expires closes its services with the first event after it, and no other event looks at them."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events.event import Change
from shared.events.sealing import seal_all
from shared.events.state import ZoneState
from shared.model.resource import DataSource, ExternalTls, ResourceKey, Sealed, Secret, Verification
from tests.builders import LogBuilder, ZoneBuilder, applied, at, deleted, mes, mesh, service_key
from tests.xds.views import Authority
from zone_cp.view import expiries, project, services
from zone_cp.view.zone_view import ExternalServiceView, Failure, ZoneView

CA_FIELD = "spec.tls.verification.caCert"


def secret(name: str, expires: float) -> Change:
    sealed = Sealed(kid="k", nonce="bg==", ciphertext="Yw==", digest=f"d{expires}", expires=at(expires))
    return applied(Secret(name=name, mesh="default", sealed=sealed))


def service(name: str, ca: str, mode: str = "Secured") -> Change:
    verification = Verification(mode=mode, ca_cert=DataSource(secret=ca))  # type: ignore[arg-type]
    return applied(mes(name, tls=ExternalTls(enabled=True, verification=verification)))


names = st.sampled_from("abc")
steps = st.lists(
    st.one_of(
        st.builds(service, names, st.sampled_from(["one", "two"]), st.sampled_from(["Secured", "SkipSAN", "SkipAll"])),
        st.builds(lambda name: deleted(mes(name)), names),
        st.builds(secret, st.sampled_from(["one", "two"]), st.integers(0, 40)),
        st.just(applied(mesh("another"))),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_step_by_step_is_the_same_as_at_once(history: list[Change]) -> None:
    """Five seconds between events: some pass an expiry, some do not, and every view is the one built whole."""
    hub, zone = LogBuilder(), ZoneBuilder("east")
    hub.append(applied(mesh()), secret("one", 12), secret("two", 33))
    zone.follow(hub)
    view = project.project(zone.state)
    for number, change in enumerate(history):
        before = zone.state
        hub.append(change, seconds=5 * number)
        zone.follow(hub)
        view = project.project_next(view, before, zone.state)
        assert view == project.project(zone.state)


def failure(view: ZoneView, name: str) -> Failure | None:
    return view.meshes["default"].services[service_key(name)].failure


def test_a_service_closes_with_the_first_event_after_the_expiry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the services whose time has come are made anew; without verification the CA says nothing."""
    hub, zone = LogBuilder(), ZoneBuilder("east")
    hub.append(applied(mesh()), secret("one", 10), secret("two", 20))
    hub.append(service("a", "one"), service("b", "two"), service("c", "one", "SkipAll"))
    zone.follow(hub)
    view = project.project(zone.state)
    assert view.expiries.first == at(10)
    made: list[str] = []
    real = services.service_view

    def counted(state: ZoneState, key: ResourceKey) -> ExternalServiceView | None:
        made.append(key.name)
        return real(state, key)

    monkeypatch.setattr("zone_cp.view.project.service_view", counted)

    def step(seconds: float) -> ZoneView:
        before = zone.state
        hub.append(applied(mesh("another")), seconds=seconds)
        zone.follow(hub)
        return project.project_next(view, before, zone.state)

    view = step(9)
    assert (made, failure(view, "a")) == ([], None)
    view = step(10)
    assert made == ["a"]
    said = Failure("CaExpired", f"the last of the CA certificates expired at {at(10)[:19]}Z", CA_FIELD)
    assert (failure(view, "a"), failure(view, "b"), failure(view, "c")) == (said, None, None)
    view = step(15)
    assert made == ["a"]
    view = step(99)
    assert made == ["a", "b"]
    assert view.expiries == expiries.NO_EXPIRIES


def test_sealing_tells_when_certificates_expire() -> None:
    """Of a bundle the last one; the date is public, so that a zone need not open a Secret to know it."""
    old, new = Authority("old", expired=True).pem, Authority("new").pem
    texts = (old, new, old + new, "no certificate")
    secrets = [Secret(name="ca", data=b64encode(text.encode()).decode()) for text in texts]
    empty = Sealed(kid="k", nonce="", ciphertext="", digest="")
    sealed = [one.sealed for one in seal_all(secrets, lambda _: (empty, ())).resources if isinstance(one, Secret)]
    dates = [one.expires for one in sealed if one is not None]
    assert dates[0] < dates[1]
    assert dates[2:] == [dates[1], ""]
