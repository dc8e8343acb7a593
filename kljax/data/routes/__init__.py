"""How data are got: out of packages, archives, wheels, the cache and the hubs."""

from kljax.data.routes import archives, debian, hub, packaged, wheels
from kljax.data.routes.route import Route

__all__ = ["ROUTES", "Route"]

ROUTES: dict[str, Route] = {
    "pip": packaged.ROUTE,
    "debian": debian.ROUTE,
    "wheel": wheels.ROUTE,
    "archive": archives.ROUTE,
    "hub": hub.ROUTE,
}
"""By what the field `route` of a row says, in the order in which they are listed."""
