"""Cheap compiles for tests: XLA's effort is not spent on programs that run once.

JAX has no public default of `jax.jit(compiler_options=...)`, so the one function that
all options pass through is wrapped. `test_compiling.py` fails where JAX moves it.
"""

import jax
from jax._src import compiler

CHEAPLY = {  # a fifth of the CPU time of XLA's own settings
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
users_options = compiler.get_compile_options
as_users_have_it = False


def options(*args, backend, env_options_overrides=None, **others):
    if backend.platform == "cpu" and not as_users_have_it:
        env_options_overrides = CHEAPLY | (env_options_overrides or {})
    return users_options(
        *args, backend=backend, env_options_overrides=env_options_overrides, **others
    )


compiler.get_compile_options = options


def switch(optimized: bool) -> None:
    """What was compiled of the other kind is forgotten."""
    global as_users_have_it
    if optimized != as_users_have_it:
        jax.clear_caches()
    as_users_have_it = optimized
