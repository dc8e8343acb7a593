"""BD-KD: two networks that teach each other, with a balance of forward and reverse KL.

Student and teacher learn together from scratch (Amara et al. 2022, "BD-KD: Balancing
the divergences for online knowledge distillation", arXiv 2212.12965); where the student
is the more confident of the two its forward KL counts more, elsewhere its reverse KL.
We train pairs of small networks on scikit-learn's digits, most of them with wrong
labels, under this rule, under mutual learning, and under the two controls that the
rule needs: the same total weight given blindly, and the rule reversed. Neither the
paper's text nor its code was to be had, so that its constants are not known and the
direction of the rule is our reading; its data (CIFAR, Tiny-ImageNet, ImageNet) are not
run here.

    python -m experiments run bd_kd                 # minutes on two cores
    python -m experiments run bd_kd --preset gpu    # Fashion-MNIST, residual networks
    python -m experiments run bd_kd --preset paper --fetch  # CIFAR-100; or --data FILE
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import kit
from experiments.harness import bookkeeping
from kljax.data.batching import in_parts, passes
from kljax.data.pool import Pool
from kljax.metrics import classification_scores
from kljax.models.dense import MLP
from kljax.models.functional import parameter_count, pure
from kljax.models.vision.images import random_crop
from kljax.models.vision.resnet import ResNet
from kljax.objectives.mutual import bd_kd, mutual_loss
from kljax.training import Loss, Player, init_state, taken
from kljax.training.optimizers import momentum

PAPER = "BD-KD: balancing the divergences for online distillation (arXiv 2212.12965)"

ALONE, FORWARD, BOTH = [[0, 0]] * 2, [[1, 0]] * 2, [[1, 1]] * 2
RULE = bd_kd(2.0, 2.0).tolist()  # delta and nu are not known from the paper
METHODS = {
    "independent": (ALONE, ALONE),
    "mutual": (FORWARD, FORWARD),  # Zhang et al. 2018
    "both KLs": (BOTH, FORWARD),
    "both, 1.5": ([[1.5, 1.5]] * 2, FORWARD),  # BD-KD's total weight, given blindly
    "BD-KD": (RULE, FORWARD),
    "reversed": (RULE[::-1], FORWARD),
}
"""What student and teacher are taught by: weights of (forward, reverse) KL where the
one that learns is not the more confident one, and where it is."""
ROLES = ("student", "teacher")
MAIN = [f"{role} {metric}" for role in ROLES for metric in ("accuracy", "ECE")]
UNITS = {"accuracy": "accuracy, %", "ECE": "ECE, %", "nats": "log loss, nats",
         "Brier": "Brier score", "adaptive ECE": "ECE in equal counts, %",
         "class-wise ECE": "class-wise ECE, %",
         "excess": "confidence minus accuracy, points"}  # fmt: skip
MORE = [f"student {metric}" for metric in [*UNITS][2:]]


@dataclasses.dataclass(frozen=True)
class Network:
    widths: tuple[int, ...]
    blocks: tuple[int, ...] = ()
    """Residual blocks of each stage; none: hidden layers of a perceptron."""


@dataclasses.dataclass(frozen=True)
class Task:
    student: Network
    images: int | None
    """To train on; None: all that there are."""
    noise: float
    """Share of their labels that are drawn anew from all classes."""
    temperature: float


@dataclasses.dataclass(frozen=True)
class Config(kit.Settings):
    seeds: int = 16
    data: str = "digits"
    """A name of `kljax.data.names()`, or a path to images of your own."""
    fetch: bool = bookkeeping(False)
    """Allow a download of a named data set, of a hub too."""
    held_out: int | None = 1000
    """Test images, drawn anew for every seed; None: the data's own test split."""
    tasks: tuple[str, ...] = ("mild", "hard", "clean", "tiny")
    """Which of the fields below are run."""
    mild: Task = Task(Network((16,)), 300, 0.2, 3.0)
    hard: Task = Task(Network((32,)), 600, 0.3, 1.0)
    clean: Task = Task(Network((48,)), 150, 0.0, 1.0)
    tiny: Task = Task(Network((6,)), 600, 0.0, 1.0)
    teacher: Network = Network((128, 128))
    steps: int = 1200
    batch: int = 64
    optimizer: Literal["adam", "sgd"] = "adam"
    rate: float = 3e-3
    augment: bool = False
    """Whether training images are shifted by up to four pixels and mirrored."""


OPTIMIZERS: dict[str, Callable[[Config], optax.GradientTransformation]] = {
    "adam": lambda config: optax.adam(config.rate),
    "sgd": lambda config: momentum(
        optax.cosine_decay_schedule(config.rate, config.steps)
    ),
}
SMALL = Network((16, 32), (1, 1))
PRESETS = {
    "smoke": Config(seeds=2, tasks=("hard",), steps=30, decide=False),
    "cpu": Config(),
    # Never run by us: no accelerator was at hand.
    "gpu": Config(
        seeds=4, data="fashion_mnist", held_out=None, tasks=("mild", "hard"),
        mild=Task(SMALL, 3000, 0.2, 3.0), hard=Task(SMALL, 6000, 0.3, 1.0),
        teacher=Network((32, 64, 128), (2, 2, 2)), steps=1500,
        optimizer="sgd", rate=0.1,
    ),
    # Never run by us. ResNet-20 taught by ResNet-56; nothing of this is given in what
    # we know of the paper: 200 passes and the rest are what papers on CIFAR share.
    "paper": Config(
        seeds=3, data="cifar100", held_out=None, tasks=("clean",),
        clean=Task(Network((16, 32, 64), (3, 3, 3)), None, 0.0, 3.0),
        teacher=Network((16, 32, 64), (9, 9, 9)), steps=78_000, batch=128,
        optimizer="sgd", rate=0.1, augment=True,
    ),
}  # fmt: skip


LEARNING, BALANCED = ("mutual", "independent"), ("both KLs", "BD-KD")


def gain(task: str, one: str, other: str, metric: str = "student accuracy"):
    """The value of a claim: a paired difference at one task."""
    return lambda scores: scores.at(task).difference(metric, one, other)


def ratio(metric: str, one: str, other: str):
    """The value of a claim: a ratio of means at the hard task."""
    return lambda scores: scores.at("hard").ratio_of_means(metric, one, other)


def spread(scores: kit.Scores) -> float:
    """student: accuracy, the best method's mean minus the worst one's"""
    clean = scores.at("clean")
    means = [clean.mean("student accuracy", method) for method in clean.methods]
    return max(means) - min(means)


CLAIMS = (
    kit.Claim(
        "ACCURACY-HARD",
        "With 30 % wrong labels a student of BD-KD is more accurate than one of mutual "
        "learning.",
        "abstract: better accuracy than recent online methods",
        gain("hard", "BD-KD", "mutual"),
        kit.both(kit.at_least(1.2, "points"), kit.interval_above(0, level=0.9)),
        paper="its tables (on CIFAR) were not readable",
    ),
    kit.Claim(
        "ACCURACY-MILD",
        "So it is with 20 % wrong labels, at temperature 3.",
        "abstract", gain("mild", "BD-KD", "mutual"),
        kit.both(kit.at_least(0.8, "points"), kit.interval_above(0, level=0.9)),
    ),
    kit.Claim(
        "CALIBRATION",
        "A student that hears both KLs, balanced or not, is better calibrated than one "
        "of mutual learning (30 % wrong labels).",
        "abstract: improved calibration",
        lambda found: {x: ratio("student ECE", x, "mutual")(found) for x in BALANCED},
        kit.holds_for(1, kit.at_most(0.95)),
    ),
    kit.Claim(
        "TEACHER",
        "The large network gains from mutual learning, too: it unlearns wrong labels.",
        "ours: the paper keeps the teacher's term of mutual learning",
        lambda found: {
            "accuracy": gain("hard", *LEARNING, "teacher accuracy")(found),
            "ECE": ratio("teacher ECE", *LEARNING)(found),
        },
        kit.all_of(accuracy=kit.at_least(5, "points"), ECE=kit.at_most(0.65)),
        ours=True,
    ),
    kit.Claim(
        "CLEAN",
        "Where all labels are right no method makes a difference to the student.",
        "ours", spread, kit.at_most(1.0, "points"), ours=True,
    ),
    kit.Claim(
        "WEAK",
        "A student of six units drags its teacher down (all labels right).",
        "ours", gain("tiny", *LEARNING, "teacher accuracy"),
        kit.interval_below(0), ours=True,
    ),
    kit.Claim(
        "CONTROL-WEIGHT",
        "What the entropy rule is worth beyond its total weight (30 % wrong labels).",
        "ours: both KLs at 1.5 give the same total weight blindly",
        gain("hard", "BD-KD", "both, 1.5"), kit.shown(), ours=True,
    ),
    kit.Claim(
        "CONTROL-REVERSED",
        "What the entropy rule is worth against its opposite (30 % wrong labels).",
        "ours: forward KL where the student is the less confident one",
        lambda scores: kit.Noted(
            gain("hard", "BD-KD", "reversed")(scores),
            "A rule that cannot be told from its opposite is not what helps.",
        ),
        kit.shown(), ours=True,
    ),
)  # fmt: skip


def network(shape: Network, images: np.ndarray, classes: int) -> tuple[Any, Any]:
    """`apply(params, statistics, x, train=)` and `initial(key)`, of either kind."""
    sizes = {"widths": shape.widths, "blocks": shape.blocks}
    residual = lambda rngs: ResNet(images.shape[-1], classes, **sizes, rngs=rngs)  # noqa: E731
    dense = lambda rngs: MLP((images[0].size, *shape.widths, classes), rngs=rngs)  # noqa: E731
    return pure(residual if shape.blocks else dense, stateful=True)


def trained(study: kit.Study, name: str, pool: Pool) -> dict[tuple, dict[str, float]]:
    """Scores of all methods and seeds on one task."""
    config, task = study.config, getattr(study.config, name)
    shapes = dict(zip(ROLES, (task.student, config.teacher)))
    nets = {role: network(s, pool.x, pool.classes) for role, s in shapes.items()}

    def players(own: dict[str, Any]) -> list[Player]:
        """Both networks in one role: they move from the same parameters."""

        def loss(params, *, state, frozen, batch, key):
            x, y = frozen[own["rows"][batch["rows"]]], own["labels"][batch["rows"]]
            x = random_crop(key, x) if config.augment else x
            say, statistics, total, metrics = {}, {}, jnp.zeros(()), {}
            for role, (apply, _) in nets.items():
                before = state.model_state["pair"][role]
                say[role], statistics[role] = apply(params[role], before, x, train=True)
            for role, peer in zip(ROLES, ROLES[::-1]):
                part, found = mutual_loss(
                    say[peer], say[role], y, own[role], temperature=task.temperature
                )
                total += part
                metrics |= {f"{role}/{k.split('/')[1]}": v for k, v in found.items()}
            return Loss(total, metrics, model_state=statistics)

        return [Player("pair", loss, OPTIMIZERS[config.optimizer](config))]

    def state(own: dict[str, Any]):  # of a seed, the same under all methods
        keys = jax.random.split(jax.random.key(own["seed"]), 3)
        first = [nets[role][1](key) for role, key in zip(ROLES, keys)]
        params, statistics = (dict(zip(ROLES, parts)) for parts in zip(*first))
        return init_state(
            keys[2], {"pair": params}, players(own), model_state={"pair": statistics}
        )

    choice: Any = {"images": task.images, "noise": task.noise}
    drawn = {
        seed: pool.drawn(seed, **choice, held_out=config.held_out)
        for seed in study.seeds
    }
    images = len(drawn[study.seeds[0]].train)
    members = {
        (method, seed): {
            **dict(zip(ROLES, np.array(weights, np.float32))),
            "seed": seed,
            "rows": drawn[seed].train,
            "labels": drawn[seed].labels,
        }
        for method, weights in METHODS.items()
        for seed in study.seeds
    }
    rows = passes(images, config.batch, config.seed)
    ends = study.sweep(
        ("train", name), players, members, state, lambda n: {"rows": rows(n)},
        steps=config.steps, frozen=pool.x,
        together=not any(shape.blocks for shape in shapes.values()),
    )  # fmt: skip
    pairs = ends.params["pair"], ends.model_state["pair"]
    sizes = (parameter_count(pairs[0][role]) // len(members) for role in ROLES)
    study.scale = "{}: {:,} images, {:,} and {:,} weights".format(name, images, *sizes)

    def judged() -> dict[tuple, dict[str, float]]:
        found: dict[tuple, dict[str, float]] = {member: {} for member in members}
        for role, (apply, _) in nets.items():
            ask = jax.jit(lambda p, s, x, f=apply: f(p, s, x, train=False)[0])
            for i, (method, seed) in enumerate(members):
                own = taken([part[role] for part in pairs], i)
                test = drawn[seed].test
                logits = in_parts(lambda x: ask(*own, x), 500, pool.x[test])  # noqa: B023
                scores = classification_scores(logits, pool.y[test])
                found[method, seed] |= {f"{role} {k}": v for k, v in scores.items()}
        return found

    return study.once(("scores", name), judged)


def run(study: kit.Study) -> kit.Scores:
    """Every method on every task with every seed."""
    tasks = study.config.tasks
    pool = Pool.load(study.config.data, fetch=study.config.fetch)
    study.pin(data=pool.sha256)
    rows = {
        (*member, name): row
        for name in tasks
        for member, row in trained(study, name, pool).items()
    }
    titles = {f"{role} {k}": f"{role}: {v}" for role in ROLES for k, v in UNITS.items()}
    scores = kit.Scores(rows, titles=titles, factor="tasks")
    study.metrics |= scores.flat()
    for name in tasks:
        task: Task = getattr(study.config, name)
        about = (
            f"{name}: {100 * task.noise:g} % wrong labels, {task.images} images, "
            f"student {task.student.widths}, T = {task.temperature:g}"
        )
        study.score_table(about, scores.at(name), MAIN, every=[*MAIN, *MORE])
    study.difference_table("Minus BD-KD", scores, "BD-KD", MAIN, detail=True)
    draw(study, scores, "hard" if "hard" in tasks else tasks[-1])
    return scores


def draw(study: kit.Study, scores: kit.Scores, name: str) -> None:
    """The scores of one task, and how often the rule takes either side."""
    scores = scores.at(name)
    means = {method: scores.mean("student accuracy", method) for method in METHODS}
    gained, ruled = (means["BD-KD"] - means[one] for one in ("mutual", "both, 1.5"))
    title = (
        f"BD-KD gives students {gained:+.1f} points against mutual learning, but "
        f"{ruled:+.1f} against both KLs of the same total weight"
    )
    about = f"Task {name}. Small dots: seeds; lines: 95 % intervals of their means."
    size = {"panels": 4, "columns": 2, "size": (4.6, 2.7), "sharey": True}
    with study.figure("scores", title, about, **size) as axes:
        for axis, metric in zip(axes, MAIN):
            kit.figures.dots(axis, scores, metric)
    steps, share = study.curve(("train", name), "student/confident")
    share = 100 * share.reshape(len(steps), len(METHODS), -1).mean(-1)
    last = dict(zip(METHODS, share[-max(1, len(steps) // 5) :].mean(0)))
    title = (
        "In the last fifth of its steps the student is the more confident one for "
        f"{last['BD-KD']:.0f} % of the images, for {last['independent']:.0f} % alone"
    )
    about = f"Task {name}. Share of a training batch, mean over the seeds."
    with study.figure("gate", title, about, size=(6.4, 3.6)) as axis:
        series = {method: (steps, share[:, i]) for i, method in enumerate(METHODS)}
        labels = {"xlabel": "step", "ylabel": "student more confident, %"}
        kit.figures.lines(axis, series, **labels)
