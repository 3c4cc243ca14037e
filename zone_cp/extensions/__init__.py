"""Extensions: what `spec.extension` of a MeshExternalService may name, instead of endpoints.

An extension is a type, a `validate` and a `generate` function, both pure: they get the service as the zone serves it
and the free `config` of the resource. `validate` says what is wrong (a Failure: the service answers 503 with it, and
its condition names the field) and `generate` what the originating proxy serves, once validation has passed. Where an
extension is named, `endpoints` and `tls` of the resource are not read. An unknown type is a condition, never a guess.

To add one, write a module beside `static_response.py` and list it in `registry.py`:

    from envoy_data_plane.envoy.config.route import v3 as route
    from zone_cp.extensions.extension import Config, Extension, Generated, refused

    def _validate(service: ExternalServiceView, config: Config) -> Failure | None:
        return None if isinstance(config.get("to"), str) else refused("must be a host name", "to")

    def _generate(service: ExternalServiceView, config: Config) -> Generated:
        go = route.RedirectAction(host_redirect=config["to"])
        return Generated(routes=(bytes(route.Route(match=route.RouteMatch(prefix="/"), redirect=go)),))

    EXTENSION = Extension("redirect", _validate, _generate)
"""
