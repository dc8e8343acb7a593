"""KDRL: a student that is rewarded for right answers and listens to a teacher.

Reinforcement learning waits for answers that the student hardly ever gives; imitation
ends where the teacher does. KDRL (Xu et al. 2025, arXiv 2506.02208) does both on the
student's own answers: GRPO, with a KL to the teacher in place of the reference's. We
ask what either part is worth by how far the student starts from its teacher, and which
KL is the better one: the gradient of the paper's k2 in the loss is the reverse KL's,
that of k3 the *forward* KL's. The paper's text was not to be had: its figures are
quoted second-hand, its models and data are not run here.

The task is exact: 64 questions (a, b), the answer (ab + 3a + b) mod 64 in two digits of
base 8, accuracy from probabilities and not from samples. The teacher is wrong on 12 of
the questions, 70 % of the time and always alike. Students start from supervised steps
on right answers, so that they are far from the teacher or near. Every method has its
learning rate chosen at every start from one grid, on seeds that are not scored.

    python -m experiments run kdrl                 # minutes on two cores
    python -m experiments run kdrl --preset gpu    # sums of numbers, transformers
    python -m experiments run kdrl --preset paper  # the same, larger
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import kit
from kljax.data.arithmetic import mistaken, modular, sums
from kljax.generators import Choice, ForwardKL, ReverseKL
from kljax.models import answering
from kljax.models.functional import parameter_count
from kljax.models.language.transformer import TransformerConfig
from kljax.objectives.policy.advantages import group_advantages
from kljax.objectives.policy.losses import policy_loss, unsolved
from kljax.objectives.policy.penalty import value
from kljax.training import Loss, Player, adam, init_state, taken
from kljax.training.descent import descended
from kljax.typing import Array, PyTree

PAPER = "KDRL: unified knowledge distillation and RL (arXiv 2506.02208)"


class Method(NamedTuple):
    beta: tuple[float, float] = (0.2, 0.2)
    """Of the KL to the teacher, at the first step and at the last, linear between."""
    rewards: float = 1.0
    forward: int = 0
    """1 for the forward KL (k3 in the loss), 0 for the reverse one (k2)."""
    mask: int = 0
    """Who hears the teacher: all, wrong answers, groups without a right one."""
    distil: float = 0.0
    """Share of the steps in which there is nothing but the teacher."""


METHODS = {
    "GRPO": Method((0.0, 0.0)),
    "KD": Method((1.0, 1.0), rewards=0.0),
    "KD forward": Method((1.0, 1.0), rewards=0.0, forward=1),
    "KDRL": Method(),
    "KDRL forward": Method(forward=1),
    "annealed": Method((0.5, 0.02)),
    "response mask": Method(mask=1),
    "group mask": Method(mask=2),
    "KD, then GRPO": Method((0.0, 0.0), distil=0.5),
}
MAIN, VARIANTS = [*METHODS][:5], [*METHODS][5:]
ACCURACY = "accuracy"
UNSCORED = 1_000_000  # seeds from here on are for choosing rates, and teachers'


@dataclasses.dataclass(frozen=True)
class Config(kit.Settings):
    seeds: int = 20
    task: str = "modular"
    digits: int = 3
    """Of each number, where the task is "sums"."""
    held_out: int = 0
    """Questions to score on; 0: those that are trained on, all of them."""
    student: tuple[int, int] = (64, 0)
    """Width and layers of a transformer; 0: a perceptron with one hidden layer."""
    teacher: tuple[int, int] = (64, 0)
    wrong: tuple[float, float] = (12 / 64, 0.7)
    """Share of the questions to which the teacher learns a wrong answer, how often."""
    taught: int = 400
    """Supervised steps of the teacher."""
    school_rate: float = 1e-2
    questions: int = 64
    """In a batch of supervised steps."""
    starts: tuple[tuple[str, int], ...] = (
        ("scratch", 0), ("far", 20), ("middle", 34), ("near", 48), ("close", 66)
    )  # fmt: skip
    """Names, and supervised steps of the student before."""
    variants_at: tuple[str, ...] = ("scratch", "near")
    """Where masks and schedules of KDRL are run."""
    rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2, 1e-1)
    tuning_seeds: int = 2
    prompts: int = 16
    answers: int = 8
    """Of each prompt: a group."""
    steps: int = 400


LARGE = Config(
    seeds=2, task="sums", held_out=2000, student=(128, 2), teacher=(256, 6),
    wrong=(0.0, 0.0), taught=3000, school_rate=1e-3, questions=1024,
    starts=(("scratch", 0), ("middle", 300)), variants_at=(),
    rates=(3e-4, 1e-3), tuning_seeds=1, prompts=256, answers=16, steps=500,
)  # fmt: skip
PRESETS = {
    "smoke": Config(
        seeds=2, starts=(("scratch", 0), ("near", 48)), variants_at=("near",),
        taught=20, rates=(1e-2,), tuning_seeds=0, steps=5, decide=False,
    ),
    "cpu": Config(),
    # Neither was run by us. The paper's models, data, rates and lengths are not known.
    "gpu": LARGE,
    "paper": dataclasses.replace(
        LARGE, seeds=5, digits=4, student=(256, 4), teacher=(512, 12),
        variants_at=("middle",), taught=20_000, steps=2000,
    ),
}  # fmt: skip


def gain(one: str, other: str, start: str):
    """The value of a claim: a paired difference at one start."""
    return lambda found: found.at(start).difference(ACCURACY, one, other)


def ahead(
    name: str, words: str, source: str, pair: tuple[str, str], at: str, paper: str = ""
):
    """The claim that one method is better than another at some starts."""

    def value(scores: kit.Scores) -> Any:
        found = {start: gain(*pair, start)(scores) for start in at.split(", ")}
        return found if len(found) > 1 else found[at]

    bar = kit.interval_above(0)
    given = name, words, source, value, kit.every(bar) if "," in at else bar
    return kit.Claim(*given, paper=paper, ours=source == "ours")


def turned(scores: kit.Scores) -> dict[str, kit.Estimate]:
    """forward minus reverse KL from scratch, reverse minus forward near"""
    far = {m: gain(f"{m} forward", m, "scratch")(scores) for m in ("KD", "KDRL")}
    return far | {"KD, near": gain("KD", "KD forward", "near")(scores)}


CLAIMS = (
    ahead("KDRL-GRPO", "A student that also listens to its teacher beats one that is "
          "only rewarded.", "abstract", ("KDRL", "GRPO"), "middle",
          "+2.6 points over GRPO"),
    ahead("KDRL-KD", "A student that is also rewarded beats one that only imitates.",
          "abstract", ("KDRL", "KD"), "middle, near", "+1.1 points over distillation"),
    kit.Claim("SCRATCH", "To a student who knows nothing a teacher is worth 10 points.",
              "ours", gain("KDRL", "GRPO", "scratch"),
              kit.both(kit.at_least(10, "points"), kit.interval_above(0)), ours=True),
    ahead("CLOSE", "A student that is nearly as good as its teacher is better without.",
          "ours", ("GRPO", "KDRL"), "close"),
    ahead("K2-K3", "In KDRL the reverse KL (k2) is better than the forward one (k3).",
          "its ablation, second-hand", ("KDRL", "KDRL forward"),
          "scratch, far, middle, near, close", "k2 about +1.4 over k3"),
    kit.Claim("TURN", "Far from the teacher the forward KL is better (the reverse one "
              "must draw right answers first); near it, without rewards, the reverse.",
              "ours", turned, kit.every(kit.interval_above(0)), ours=True),
    ahead("ANNEALED", "A coefficient that falls (0.5 to 0.02) is better than 0.2.",
          "its ablation, second-hand", ("annealed", "KDRL"), "near",
          "the best of its variants"),
    ahead("RESPONSE-MASK", "No imitation of the teacher on right answers is better.",
          "KDRL-Masking, second-hand", ("response mask", "KDRL"), "near",
          "a compromise of accuracy and length"),
    ahead("GROUP-MASK", "Imitation only where the whole group is wrong is better.",
          "its masks, second-hand", ("group mask", "KDRL"), "scratch, near"),
    ahead("SWITCH", "To distil first, then to reinforce is better than both at once.",
          "arXiv 2609.04108, against KDRL", ("KD, then GRPO", "KDRL"), "scratch, near",
          "80.6 against 62.8 on logic tasks"),
)  # fmt: skip

TASKS = {"modular": lambda digits: modular(), "sums": sums}


class World:
    """Questions, answers, and what student and teacher are."""

    def __init__(self, config: Config):
        every = TASKS[config.task](config.digits)
        order = np.random.default_rng(0).permutation(len(every[0]))
        self.questions, self.answers = (x[order] for x in every)
        self.config, self.count = config, len(order) - config.held_out
        self.base, self.length = int(every[0].max()) + 1, every[1].shape[1]
        self.student, self.teacher = map(self.policy, (config.student, config.teacher))

    def policy(self, size: tuple[int, int]) -> tuple[Any, Any]:
        width, depth = size
        if not depth:
            asked = self.questions.shape[1]
            return answering.perceptron_policy(asked, self.length, self.base, width)
        config = TransformerConfig(self.base, width=width, depth=depth, heads=4)
        return answering.transformer_policy(config)

    def batch(self, key: Array, count: int) -> tuple[Array, Array, Array]:
        """Rows, questions, answers of some; of all, where there is room for them."""
        some = jax.random.randint(key, (count,), 0, self.count)
        rows = some if count < self.count else jnp.arange(self.count)
        return rows, jnp.asarray(self.questions)[rows], jnp.asarray(self.answers)[rows]

    def right(self, policy: tuple, params: PyTree) -> Array:
        """Exact accuracy in percent, on what is scored."""
        test = slice(self.count if self.config.held_out else 0, None)
        known = jnp.asarray(self.questions[test]), jnp.asarray(self.answers[test, None])
        log_q = answering.answer_log_probs(policy[0], params, *known)
        return 100 * jnp.exp(log_q.sum(axis=-1)).mean()

    def schooled(self, policy: tuple, seeds: list[int], stops: list[int], often=0.0):
        """`[stops, seeds, ...]`: parameters on the way; so often on wrong answers."""
        rngs, share = map(np.random.default_rng, seeds), self.config.wrong[0]
        wrong = [mistaken(self.answers, self.base, share, rng) for rng in rngs]

        def one(seed, wrong):
            def loss(params, key):
                rows, asked, answers = self.batch(key, self.config.questions)
                both = jnp.stack([answers, wrong[rows]], axis=1)
                log_q = answering.answer_log_probs(policy[0], params, asked, both)
                return -jnp.mean(log_q.sum(axis=-1) @ jnp.array([1 - often, often]))

            key, rule = jax.random.key(seed), adam(self.config.school_rate)
            return descended(loss, policy[1](key), rule, stops, key=key)

        return jax.jit(jax.vmap(one, out_axes=1))(jnp.array(seeds), jnp.array(wrong))

    def practice(self, own: dict[str, Any]) -> list[Player]:
        """KDRL; its parts by a member's settings, which are traced."""
        steps, answers = self.config.steps, self.config.answers
        beta = optax.linear_schedule(own["beta"][0], own["beta"][1], steps)
        kl = value(Choice(own["forward"], (ReverseKL(), ForwardKL())))

        def loss(params, *, state, frozen, batch, key):
            keys = jax.random.split(key)
            _, asked, known = self.batch(keys[0], self.config.prompts)
            given = self.student[0], params, asked, answers, self.length
            tokens, log_q = answering.sample_answers(*given, key=keys[1])
            teacher = jax.tree.map(lambda x: x[own["teacher"]], frozen)
            log_p = answering.answer_log_probs(self.teacher[0], teacher, asked, tokens)
            right = (tokens == known[:, None]).all(axis=-1)
            masks = jnp.ones(right.shape), unsolved(right), unsolved(right, "group")
            distil = state.step < own["distil"] * steps
            rewards = jnp.where(distil, 0.0, own["rewards"])
            heard = jnp.where(distil, 1.0, beta(state.step))
            losses, metrics = policy_loss(
                log_q, rewards * group_advantages(right.astype(jnp.float32)),
                log_p=log_p, penalty=kl, beta=heard * jnp.stack(masks)[own["mask"]],
            )  # fmt: skip
            shown = {"right": right.mean(), "penalty": metrics["policy/penalty"].mean()}
            return Loss(None, shown, mean=losses.mean())

        return [Player("student", loss, adam(own["rate"]))]


def trained(study: kit.Study, world: World, name: str, members: list, begun: dict):
    """Exact accuracy of members (method, start, rate, seed) behind their training."""

    def setting(method, start, rate, seed):
        place, of = begun["seeds"].index(seed), METHODS[method]._asdict()
        first = jax.tree.map(lambda x: x[place], begun[start])
        of |= {"rate": rate, "seed": seed, "teacher": place, "first": first}
        return of | {"beta": np.array(of["beta"])}

    def state(own):
        params, key = {"student": own["first"]}, jax.random.key(own["seed"])
        return init_state(key, params, world.practice(own))

    given = name, world.practice, {one: setting(*one) for one in members}, state
    ends = study.sweep(*given, frozen=begun["teachers"], steps=study.config.steps)
    right = jax.jit(jax.vmap(lambda params: world.right(world.student, params)))
    found = study.once((name, "scores"), lambda: right(ends.params["student"]))
    return dict(zip(members, map(float, found)))


def run(study: kit.Study) -> kit.Scores:
    """Teachers and starts, the choice of rates, all methods."""
    config, world, starts = study.config, World(study.config), dict(study.config.starts)
    tuning = [UNSCORED + study.seeds[0] + i for i in range(config.tuning_seeds)]
    seeds = [*study.seeds, *tuning]

    def school() -> dict[str, Any]:
        others, often = [2 * UNSCORED + seed for seed in seeds], config.wrong[1]
        teachers = world.schooled(world.teacher, others, [config.taught], often)
        begun = world.schooled(world.student, seeds, [*starts.values()])
        found = {name: taken(begun, i) for i, name in enumerate(starts)}
        return found | {"teachers": taken(teachers, 0)}

    begun = study.once("school", school) | {"seeds": seeds}
    tried = kit.grid(MAIN, [*starts]) + kit.grid(VARIANTS, config.variants_at)
    rates = dict.fromkeys(tried, config.rates[0])
    if tuning:
        members = [(*x, *y) for x in tried for y in kit.grid(config.rates, tuning)]
        found = trained(study, world, "tuning", members, begun)
        for one in tried:
            total = [sum(found[*one, x, s] for s in tuning) for x in config.rates]
            rates[one] = config.rates[int(np.argmax(total))]
    members = [(*one, rates[one], seed) for one in tried for seed in study.seeds]
    found = trained(study, world, "practice", members, begun)
    rows = {(m, s, start): {ACCURACY: x} for (m, start, _, s), x in found.items()}
    scores = kit.Scores(rows, titles={ACCURACY: "accuracy, %"}, factor="starts")
    mean = lambda of, x: float(jax.vmap(lambda x: world.right(of, x))(x).mean())  # noqa: E731
    first = {name: mean(world.student, begun[name]) for name in starts}
    show(study, scores, rates, first, mean(world.teacher, begun["teachers"]))
    weights = f"{parameter_count(begun['teachers']) // len(seeds):,} weights"
    study.scale = f"{world.count:,} questions, a teacher of {weights}"
    return scores


def show(study: kit.Study, scores: kit.Scores, rates, first, teacher: float) -> None:
    """Tables and the picture."""
    study.metrics |= scores.flat()
    words = ", ".join(f"{name} {x:.3g} %" for name, x in first.items())
    about = f"Students start from: {words}; their teachers have {teacher:.1f} %."
    study.level_table("Accuracy, %", scores, ACCURACY, caption=about)
    study.difference_table("Minus KDRL", scores, "KDRL", [ACCURACY], detail=True)
    rows = [(*one, rate) for one, rate in rates.items()]
    head = ("method", "start", "best rate on other seeds")
    study.table("Learning rates", head, rows, detail=True)
    gains, won = {}, []
    for name in ("KD", "KDRL"):
        gains[name] = [gain(f"{name} forward", name, x)(scores) for x in first]
        low = [y.interval()[0] if y.count > 1 else 0 for y in gains[name]]
        ahead = [x for x, least in zip(first, low) if least > 0]
        won.append(f"in {name}: {', '.join(ahead) or 'nowhere'}")
    title = f"Starts from which the forward KL is surely better, {'; '.join(won)}"
    about = (
        "By the accuracy that students start from: accuracy behind the training (means "
        "over seeds; dotted: the teacher's, dashed: at the start), and what the "
        "forward KL gains on the reverse one (shaded: 95 % intervals over seeds)."
    )
    x, label = [*first.values()], "accuracy at the start, %"
    with study.figure("starts", title, about, panels=2, size=(5.2, 4.0)) as axes:
        ends = {m: (x, [scores.at(s).mean(ACCURACY, m) for s in first]) for m in MAIN}
        axes[0].plot(x, x, "--", color="grey", lw=1)
        given = {"marker": "o", "xlabel": label, "ylabel": "accuracy, %"}
        kit.figures.lines(axes[0], ends, levels={"teacher": teacher}, **given)
        axes[1].axhline(0, color="black", lw=1)
        axes[1].set(xlabel=label, ylabel="forward minus reverse KL, points")
        for name, found in gains.items():
            style = {"color": kit.figures.colors(MAIN)[name]}
            ends = [one.interval() if one.count > 1 else (0, 0) for one in found]
            axes[1].fill_between(x, *np.transpose(ends), alpha=0.2, **style)
            axes[1].plot(x, [one.value for one in found], "o-", label=name, **style)
        axes[1].legend(fontsize=8)
