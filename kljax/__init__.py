"""kljax: the Kullback-Leibler divergence and its relatives in JAX."""

__version__ = "0.1.0"
