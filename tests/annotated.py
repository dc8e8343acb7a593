"""Calls every public function with annotations checked; prints what does not fit.

A program of its own, as annotations, of shapes too, are checked from the import on.
"""

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

# An int is a legal float.
checker = beartype(conf=BeartypeConf(is_pep484_tower=True))

if __name__ == "__main__":
    with install_import_hook("kljax", "annotated.checker"):
        from public_calls import TABLE, TYPED, VARIANTS
        from public_plain import PLAIN
        from public_rooms import TRACED

    import jax

    tables = TABLE, VARIANTS, TYPED, TRACED, PLAIN
    rows = [(table, *row) for table in tables for row in table.items()]
    for table, name, (function, arrays) in rows:
        try:
            if table is PLAIN:
                function(**arrays)
            else:
                jax.make_jaxpr(lambda arrays, call=function: call(**arrays))(arrays)
        except Exception as error:
            print(name, type(error).__name__, str(error)[:1000], "\n")
