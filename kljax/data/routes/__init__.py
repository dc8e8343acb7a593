"""How data are got: the cache, installed packages, archives, wheels, hub clients."""

__all__: list[str] = []
