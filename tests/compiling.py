"""Cheap compiles for tests: XLA's effort is not spent on programs that run once.

JAX has no public default of `jax.jit(compiler_options=...)`, so the one function that
all options pass through is wrapped. `test_compiling.py` fails where JAX moves it.
"""

import jax
from jax._src import compiler
from jax._src.interpreters import mlir
from jaxlib.mlir import ir

# XLA's program, its buffers and collectives are the users'; not its machine code.
INSPECTED = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_parallel_codegen_split_count": 1,
}
# A fifth of the CPU time of XLA's own settings.
CHEAPLY = {**INSPECTED, "xla_cpu_use_fusion_emitters": False}
KINDS = {"cheap": CHEAPLY, "inspected": INSPECTED, "optimized": {}}
users_options = compiler.get_compile_options
kind = "cheap"


def options(*args, backend, env_options_overrides=None, **others):
    if backend.platform == "cpu":
        env_options_overrides = KINDS[kind] | (env_options_overrides or {})
    return users_options(
        *args, backend=backend, env_options_overrides=env_options_overrides, **others
    )


compiler.get_compile_options = options
fresh, shared = mlir.make_ir_context, mlir.make_ir_context()


def context():
    """One for all programs: its making is a quarter of a small program's cost."""
    midst = ir.Context.current  # an operation that runs while another is lowered
    return fresh() if midst else shared


mlir.make_ir_context = context


def switch(wanted: str) -> None:
    """What was compiled of another kind is forgotten."""
    global kind
    if wanted != kind:
        jax.clear_caches()
    kind = wanted
