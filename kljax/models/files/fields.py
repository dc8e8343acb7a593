"""The fields of a config.json: read by name and type, refused by name.

Rotary positions and windows of attention, which several families share, are read and
written here as well.
"""

import pathlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from kljax.errors import CheckpointError
from kljax.models.files.facts import facts
from kljax.models.language.configuration import MOST, TransformerConfig
from kljax.models.language.rope import Rope

__all__ = [
    "ACTIVATIONS",
    "Fields",
    "read_rope",
    "read_window",
    "rope_fields",
    "window_fields",
]

ACTIVATIONS: Mapping[str, str] = facts("families.toml")["activations"]
ROPE: Mapping[str, Mapping[str, str]] = facts("families.toml")["rope"]
MATHEMATICS = re.compile(
    "multiplier|soft_?cap|scal(e|ing)|clip|clamp|chunk|alibi|rotary|(^|_)rope|window|"
    "(^|_)mup|quantiz|compress|nextn|(^|_)sink|temperature_tuning|query_pre_attn|ntk|logn|"
    "parallel_(residual|attn|block)|(qk|query_key)_(layer)?norm|norm_type|"
    "position_embedding_type|residual_in_fp|cross_attention|shared_expert"
)
"""Names that speak of what a model computes, whoever made them up."""
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Fields:
    """The fields of one file, its defaults filled in, and its name for the errors."""

    file: pathlib.Path
    values: Mapping[str, Any]

    def get(self, name: str) -> Any:
        """A field; None where it is absent or null."""
        return self.values.get(name)

    def need(self, name: str) -> Any:
        """A field that is neither absent nor null."""
        if self.values.get(name) is None:
            raise CheckpointError(
                f"{self.file}: no {name}. Remedy: get the model's own config.json."
            )
        return self.values[name]

    def whole(self, name: str, most: int = 2**31 - 1) -> int:
        """A whole number from 0 to `most`."""
        value, expected = self.need(name), f"a whole number from 0 to {most}"
        try:
            whole = int(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise self._other(name, f"{expected} ({error})") from error
        if isinstance(value, bool) or whole != value or not 0 <= whole <= most:
            raise self._other(name, expected)
        return whole

    def count(self, name: str) -> int:
        """A number of parts, each of which has tensors of its own."""
        return self.whole(name, MOST)

    def number(self, name: str) -> float:
        """A finite number."""
        value = self.need(name)
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        if not plain or not -1e38 < value < 1e38:
            raise self._other(name, "a finite number")
        return float(value)

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.need(name)
        if not isinstance(value, bool):
            raise self._other(name, "true or false")
        return value

    def _other(self, name: str, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{self.file}: {name} is {self.values[name]!r}; expected {expected}. "
            "Remedy: get the model's own config.json."
        )

    def refuse(self, name: str, *plain: Any) -> None:
        """Raises unless the field is absent, null or one of `plain`."""
        value = self.get(name)
        if value is not None and value not in plain:
            raise CheckpointError(
                f"{self.file}: {name} is {value!r}, which this transformer cannot do "
                f"(it can: {', '.join(map(repr, plain)) or 'absent'})."
            )

    def refuse_unknown(self, known: Collection[str]) -> None:
        """Raises for a field of which nobody here knows what it does to a model.

        A field that changes nothing (a path, a version) may have any name; one that
        is off (null, false, empty, a factor of 1) changes nothing either.
        """
        for name, value in self.values.items():
            speaks = name not in known and MATHEMATICS.search(name)
            one = re.search("multiplier|scal|factor", name) and value == 1
            if speaks and value and (value is True or not one):
                self.refuse(name)

    def activation(self, name: str) -> str:
        """An activation by its name there."""
        value = self.need(name)
        if not isinstance(value, str) or value not in ACTIVATIONS:
            self.refuse(name, *ACTIVATIONS)
        return ACTIVATIONS[value]


PLAIN_ROPE: dict[str, tuple[Any, ...]] = {
    "rope_type": ("default", "linear", "llama3", "yarn"),
    "truncate": (True,),
    "partial_rotary_factor": (1,),
    "mscale": (),
    "mscale_all_dim": (),
}
"""What may stand there, of what changes a rotation."""


def read_rope(fields: Fields, theta: float) -> Rope:
    """Rotary positions, in either spelling.

    As in transformers, `rope_scaling` goes before `rope_parameters`, `rope_theta`
    inside of it before the one beside it, `rope_type` before `type`, and an
    `original_max_position_embeddings` beside it before the one inside.

    Args:
      fields: of a config.json.
      theta: the base where the file has none.

    Raises:
      CheckpointError: a kind of scaling, or a part of one, that `Rope` has not.
    """
    spelling = "rope_scaling" if fields.get("rope_scaling") else "rope_parameters"
    found = fields.get(spelling) or {}
    if not isinstance(found, Mapping):
        fields.refuse(spelling)
    given = {name: value for name, value in found.items() if value is not None}
    beside = {"rope_theta": fields.get("rope_theta") or theta}
    kind = {"rope_type": given.pop("type", "default")}
    inside = Fields(fields.file, beside | kind | given)
    for name, plain in PLAIN_ROPE.items():
        inside.refuse(name, *plain)
    for name, value in given.items():  # a table per layer type, or per frequency
        if isinstance(value, Mapping | list):
            inside.refuse(name)
    base = inside.number("rope_theta")
    if inside.get("rope_type") == "default":
        return Rope(base=base)
    length = "original_max_position_embeddings"
    around = {length: fields.get(length)} if fields.get(length) else {}
    around = {length: fields.get("max_position_embeddings")} | given | around
    names = {name: ours for part in ROPE.values() for name, ours in part.items()}
    options: dict[str, Any] = {
        ours: inside.number(name) for name, ours in names.items() if name in given
    }
    return Rope(
        base=base,
        scaling=inside.get("rope_type"),
        factor=inside.number("factor"),
        original_length=Fields(fields.file, around).whole(length),
        **options,
    )


def rope_fields(config: TransformerConfig) -> dict[str, Any]:
    """Both spellings, for readers of either."""
    rope = config.rope
    assert rope is not None
    scaling: dict[str, Any] | None = None
    if rope.scaling is not None:
        scaling = {"rope_type": rope.scaling, "factor": rope.factor}
        if rope.scaling != "linear":
            scaling["original_max_position_embeddings"] = rope.original_length
        for name, ours in ROPE.get(rope.scaling, {}).items():
            if (value := getattr(rope, ours)) is not None:
                scaling[name] = value
    parameters = {"rope_theta": rope.base, **(scaling or {"rope_type": "default"})}
    both = {"rope_scaling": scaling, "rope_parameters": parameters}
    return {"rope_theta": rope.base, **both}


def read_window(fields: Fields, layered: bool) -> dict[str, Any]:
    """`window` and `window_layers` of a configuration.

    Args:
      fields: of a config.json.
      layered: layers may differ; else `layer_types` can only say what holds anyway.

    Raises:
      CheckpointError: layers of another kind, or more or fewer than there are.
    """
    depth, width = fields.count("num_hidden_layers"), None
    if fields.get("sliding_window") is not None and fields.flag("use_sliding_window"):
        width = fields.whole("sliding_window")
    first = depth if width is None else fields.whole("max_window_layers")
    kinds = [SLIDING if i >= first else FULL for i in range(depth)]
    given = fields.get("layer_types") or kinds
    if given != kinds:
        known = {FULL} if width is None else {FULL, SLIDING}
        if not layered or len(given) != depth or not known.issuperset(given):
            fields.refuse("layer_types", kinds)
    layers = tuple(i for i, kind in enumerate(given) if kind == SLIDING)
    if not layers:
        return {}
    every = len(layers) == depth
    return {"window": width, "window_layers": None if every else layers}


def window_fields(config: TransformerConfig) -> dict[str, Any]:
    """The fields of a window that some layers have; none where there is none."""
    if config.window is None:
        return {}
    short = [config.is_windowed(i) for i in range(config.depth)]
    return {
        "sliding_window": config.window,
        "use_sliding_window": True,
        "max_window_layers": short.index(True),
        "layer_types": [SLIDING if windowed else FULL for windowed in short],
    }
