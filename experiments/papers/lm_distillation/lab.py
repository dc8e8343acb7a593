"""Text, teacher and students: what the stages of the paper are made of."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import kit
from kljax.data.batching import in_parts, passes
from kljax.data.text import read_corpus
from kljax.decoding import Decoding, generate
from kljax.divergences import Hidden, Logits, dense_logits
from kljax.metrics import calibration_error, reliability, token_measures
from kljax.models.files.pretrained import from_pretrained, save_pretrained
from kljax.models.functional import parameter_count
from kljax.models.language.stacking import stack_layers
from kljax.models.language.transformer import TransformerConfig, transformer
from kljax.models.language.vocabulary import Bytes, restricted, widened
from kljax.objectives.distillation import distillation_loss, sequence_level_loss
from kljax.objectives.on_policy import mixed_batch, next_token
from kljax.training import Loss, Player, adam, init_state, warmup_cosine
from kljax.typing import Array, Float, PyTree

TEXT = "cross_entropy"
"""The control: no teacher, the text alone."""
DIVERGENCES = ("forward_kl", "reverse_kl", "jensen_shannon", "skew_forward_kl")
ROWS = 8
"""Windows that are judged at a time."""


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    source: str | None = "smollm2"
    """Name, folder or .gguf file of `from_pretrained`; None: bytes, trained here."""
    width: int = 64
    depth: int = 3
    heads: int = 4
    steps: int = 300
    batch: int = 8
    learning_rate: float = 3e-3


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    layers: tuple[int, ...] = (0, 1, 2, 29)
    """Which of the teacher's layers it starts with; none: a network of its own sizes
    with random weights."""
    width: int = 256
    depth: int = 4
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 768
    text_steps: int = 112
    """Steps on the text alone that all students have behind them when distillation
    starts: MiniLLM and DistiLLM start from a fine-tuned student, too."""
    text_rate: float = 1e-3
    steps: int = 104
    batch: int = 8
    learning_rate: float = 5e-4
    temperature: float = 1.0
    fraction: float = 0.5
    """Share of batches that an on-policy student writes; the paper of GKD uses 0.5 and
    1."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A transformer as the losses take it."""

    config: TransformerConfig

    @functools.cached_property
    def pair(self) -> Any:
        return transformer(self.config)

    def states(self, params: PyTree, tokens: Array) -> Array:
        return self.pair[0](params, tokens, features=True)

    def side(self, params: PyTree, tokens: Array) -> Hidden:
        return self.read(self.states(params, tokens), params["head"])

    def read(self, states: Any, head: dict[str, Array]) -> Hidden:
        """A side from states that were stored."""
        return Hidden(states, head["kernel"], head.get("bias"), self.config.soft_cap)


def text_loss(model: Model) -> Callable[..., Loss]:
    """Plain training on text."""

    def loss(params, *, state, frozen, batch, key):
        side = model.side(params, batch["tokens"])
        mean, metrics = sequence_level_loss(side, batch["labels"], reduction="mean")
        return Loss(None, metrics, mean=mean)

    return loss


def student_loss(
    student: Model, teacher: Model, config: StudentConfig, method: str
) -> Callable[..., Loss]:
    """A divergence to the teacher's stored states, on policy for a share of batches."""
    divergence, _, on_policy = method.partition("/")
    if divergence == TEXT:
        return text_loss(student)

    def loss(params, *, state, frozen, batch, key):
        found = {}
        if on_policy:
            own = jax.lax.stop_gradient(params)
            write = functools.partial(written, student, teacher, own, frozen["teacher"])
            batch, found = mixed_batch(key, batch, write, fraction=config.fraction)
        mean, metrics = distillation_loss(
            teacher.read(batch["states"], frozen["head"]),
            student.side(params, batch["tokens"]),
            divergence=divergence,
            temperature=config.temperature,
            weights=batch["token_weights"],
            reduction="mean",
        )
        return Loss(None, metrics | found, mean=mean)

    return loss


def written(
    student: Model, teacher: Model, own: PyTree, theirs: PyTree, key: Array, batch: dict
) -> dict[str, Array]:
    """The second half of every window written anew, and read by the teacher."""
    tokens = batch["tokens"]
    length = tokens.shape[1]
    prompt = length // 2
    writer, rest = (student.pair[0], own), Decoding(length - prompt)
    made = generate([writer], tokens[:, :prompt], rest, key=key).tokens
    text = jnp.concatenate([tokens[:, :prompt], made], axis=1)
    inside = jnp.broadcast_to(jnp.arange(length) >= prompt, text.shape)
    labels, weights = next_token(text, inside)
    made = {"tokens": text, "labels": labels, "token_weights": weights}
    made["states"] = teacher.states(theirs, text)
    return {name: value.astype(batch[name].dtype) for name, value in made.items()}


class Lab:
    """Text, teacher and students of a run; what is not asked for is not worked out."""

    def __init__(self, study: kit.Study):
        self.study, self.config = study, study.config
        source = self.config.teacher.source
        self.published = None if source is None else from_pretrained(source)
        encode, end = Bytes.encode, Bytes.end
        if self.published is not None:
            known: Any = self.published.tokenizer
            encode = known.encode
            end = known.vocabulary.get("<|endoftext|>", known.eos_id) or 0
        self.corpus = read_corpus(self.config.data, encode, end)
        study.pin(**{"text/sha256": self.corpus.sha256})

    def batches(self, size: int, *stream: int, states: Any = None) -> Callable:
        """`batch(n)`: windows in an order drawn anew for every pass over the text."""
        windows = self.corpus.train
        drawn = passes(len(windows), size, *stream)

        def batch(n: int) -> dict[str, np.ndarray]:
            rows = drawn(n)
            found = {"tokens": windows[rows, :-1], "labels": windows[rows, 1:]}
            found["token_weights"] = np.ones(found["labels"].shape, np.float32)
            return found if states is None else found | {"states": states[rows]}

        return batch

    def fit(self, label, role, loss, params, batches, *, key, rate, steps, **options):
        """One network's parameters after training."""
        rule = adam(warmup_cosine(rate, steps), b2=0.95, weight_decay=0.01)
        players = [Player(role, loss, rule)]
        state = init_state(key, {role: params}, players)
        options |= {"steps": steps, "log_every": 10}
        return self.study.fit(label, players, state, batches, **options).params[role]

    @functools.cached_property
    def teacher(self) -> tuple[Model, PyTree]:
        """The published model on the ids that occur, or one trained on their text."""
        if self.published is not None:
            loaded = self.published
            config, params = restricted(loaded.config, loaded.params, self.corpus.ids)
            return Model(config), params
        config, seed = self.config.teacher, self.config.seed
        sizes = {name: getattr(config, name) for name in ("width", "depth", "heads")}
        model = self._model(len(self.corpus.ids), hidden=2 * config.width, **sizes)
        key = jax.random.fold_in(jax.random.key(seed), 1)
        batches = self.batches(config.batch, seed, 0)
        budget = {"rate": config.learning_rate, "steps": config.steps}
        loss, params = text_loss(model), model.pair[1](key)
        return model, self.fit(
            "teacher", "teacher", loss, params, batches, key=key, **budget
        )

    def _model(self, vocabulary: int, **sizes: Any) -> Model:
        length = self.config.data.length
        return Model(TransformerConfig(vocabulary, max_length=length, **sizes))

    @functools.cached_property
    def states(self) -> dict[str, np.ndarray]:
        """The teacher's hidden states on both texts, float16."""

        def work(name: str) -> np.ndarray:
            model, params = self.teacher
            run = jax.jit(lambda p, x: model.states(p, x).astype(jnp.float16))
            layers = jax.jit(stack_layers)(params)  # in a scan: one is compiled
            windows = getattr(self.corpus, name)[:, :-1]
            with self.study.task(f"teacher reads {name}", len(windows)) as note:
                found = in_parts(lambda x: run(layers, x), ROWS, windows, note=note)
            if not np.isfinite(found).all():
                raise FloatingPointError(f"states on {name} do not fit float16")
            return found

        texts = ("train", "held_out")
        return self.study.once("states", lambda: {name: work(name) for name in texts})

    @functools.cached_property
    def student(self) -> Model:
        config, teacher = self.config.student, self.teacher[0].config
        if not config.layers:
            names = ("width", "depth", "heads", "kv_heads", "hidden")
            sizes = {name: getattr(config, name) for name in names}
            return self._model(teacher.vocab_size, **sizes)
        if not 0 <= min(config.layers) <= max(config.layers) < teacher.depth:
            raise ValueError(
                f"student.layers {config.layers}: the teacher has layers 0 to "
                f"{teacher.depth - 1}"
            )
        return Model(dataclasses.replace(teacher, depth=len(config.layers)))

    def initial(self, key: Array) -> PyTree:
        """Layers, norm and head of the teacher, or random weights."""
        taught, layers = self.teacher[1], self.config.student.layers
        if not layers:
            return self.student.pair[1](key)
        kept = {i: taught["layers"][j] for i, j in enumerate(layers)}
        return {**taught, "layers": kept}

    @functools.cache  # noqa: B019 (one lab per run)
    def started(self, seed: int) -> PyTree:
        """Parameters that all students of a seed begin with."""
        config = self.config.student
        key = jax.random.fold_in(jax.random.key(seed), 2)
        params = self.initial(key)
        if not config.text_steps:
            return params
        key, batches = jax.random.fold_in(key, 1), self.batches(config.batch, seed, 1)
        budget = {"rate": config.text_rate, "steps": config.text_steps}
        loss, label = text_loss(self.student), ("text", seed)
        return self.fit(label, "student", loss, params, batches, key=key, **budget)

    def trained(self, method: str, seed: int) -> PyTree:
        """A student after its budget."""
        config, (teacher, taught) = self.config.student, self.teacher
        shown = self.corpus.held_out[: self.config.shown]

        def evaluate(state) -> dict[str, float]:
            read = functools.partial(self.nats, state.params["student"])
            return {"held_out/nats": float(in_parts(read, ROWS, shown).mean())}

        batches = self.batches(config.batch, seed, 2, states=self.states["train"])
        seen = {"head": taught["head"], "teacher": taught if "/" in method else None}
        return self.fit(
            ("train", method, seed),
            "student",
            student_loss(self.student, teacher, config, method),
            self.started(seed),
            batches,
            key=jax.random.fold_in(jax.random.key(seed), 4),
            rate=config.learning_rate,
            steps=config.steps,
            frozen=seen,
            evaluate=evaluate,
            evaluate_every=max(1, config.steps // self.config.evaluations),
        )

    @functools.cached_property
    def nats(self) -> Callable[..., Float[Array, "b"]]:
        """Mean nats per token of a few windows, compiled."""

        def run(params: PyTree, window: Array) -> Float[Array, "b"]:
            q = dense_logits(self.student.side(params, window[:, :-1]))
            return token_measures(window[:, 1:], q)["nats"].mean(axis=1)

        return jax.jit(run)

    @functools.cached_property
    def measure(self) -> Callable[..., dict[str, Array]]:
        def run(params: PyTree, head: PyTree, states: Array, window: Array):
            p = dense_logits(self.teacher[0].read(states, head))
            if params is None:
                return token_measures(window[:, 1:], p)
            q = dense_logits(self.student.side(params, window[:, :-1]))
            return token_measures(window[:, 1:], q, p_logits=p, distances=DIVERGENCES)

        return jax.jit(run)

    def scores(self, params: PyTree) -> dict[str, Any]:
        """Means per held-out window (None: of the teacher), ECE, reliability."""
        judge = functools.partial(self.measure, params, self.teacher[1]["head"])
        found = in_parts(judge, ROWS, self.states["held_out"], self.corpus.held_out)
        tokens = {name: value.astype(np.float64) for name, value in found.items()}
        confidence, right = np.clip(tokens["confidence"], 0, 1), tokens["accuracy"]
        curve = reliability(confidence, right, bins=12, equal="count")[:2]
        windows = {name: value.mean(axis=1) for name, value in tokens.items()}
        windows["overconfidence"] = windows["confidence"] - windows["accuracy"]
        windows["ece"] = calibration_error(confidence, right)
        return {"windows": windows, "reliability": curve}

    def export(self, method: str, seed: int) -> dict[str, Any]:
        """A student in the Hugging Face layout, in the run's folder `student`; sizes.

        With layers of a published teacher on all of its tokens, those that do not occur
        in the text as the teacher has them, and with its tokenizer; else on the tokens
        that occur, which `ids.json` lists.
        """
        params, config = self.trained(method, seed), self.student.config
        folder, loaded = self.study.folder.path / "student", self.published
        if loaded is not None and self.config.student.layers:
            config, params = widened(config, params, self.corpus.ids, loaded.params)
            save_pretrained(folder, config, params, tokenizer=loaded.tokenizer)
        else:
            save_pretrained(folder, config, params)
            (folder / "ids.json").write_text(f"{self.corpus.ids.tolist()}\n")
        sizes = {"teacher": self.teacher[1], "student": self.trained(method, seed)}
        return {name: parameter_count(params) for name, params in sizes.items()}

    def fused(self) -> dict[str, float]:
        """The fused loss against logits of all tokens, on one batch of this run."""
        rows, length = self.config.student.batch, self.config.data.length
        batch = self.batches(rows, 0, states=self.states["train"])(0)
        (teacher, taught), found, values = self.teacher, {}, {}
        params = self.started(self.study.seeds[0])
        side = jax.jit(self.student.side)(params, batch["tokens"])
        for form in ("fused", "dense"):

            def loss(states, head, cached, kernel, form=form):
                p = teacher.read(cached, taught["head"] | {"kernel": kernel})
                q = side._replace(states=states, head=head)
                if form == "dense":
                    p, q = (Logits(dense_logits(x)) for x in (p, q))
                # One window at a time.
                return distillation_loss(p, q, reduction="mean", chunk_size=length)[0]

            run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
            arrays = side.states, side.head, batch["states"], taught["head"]["kernel"]
            compiled = run.lower(*arrays).compile()
            memory: Any = compiled.memory_analysis()
            found[f"{form}/temporaries"] = int(memory.temp_size_in_bytes)
            values[form] = jax.tree.leaves(compiled(*arrays))
        gaps = [
            float(jnp.linalg.norm(a - b) / jnp.maximum(jnp.linalg.norm(b), 1e-30))
            for a, b in zip(values["fused"], values["dense"])
        ]
        return found | {"difference": max(gaps)}
