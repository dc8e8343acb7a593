"""Dynamic logit fusion: a large model steered by what small experts learnt.

Only small models are fine-tuned; while the large one decodes, their change of logits is
added to its own, with a weight that is found anew at every token (Fan et al. 2024).
Here two sizes of character-level transformers are pretrained on docstrings and lines of
five exactly scorable tasks; the small one is fine-tuned on each of four of them, the
large one too, as what could be had.

Every rule reads the same logits: fixed weights, one tuned on a validation set, the
paper's grid, our Gauss-Newton form and others, several experts, the fifth task, solved
examples in the prompt. The paper's models and tasks are left to the `paper` preset,
which like `gpu` has never been run by us.

Task sizes and training lengths were chosen by the scores of the models alone, on seeds
that are not scored here: the large model can do part of the tasks, as the paper's can,
and the experts' training lies between it and the fine-tuned one. Two settings before
that, one seed each, were scored with all rules. In the first the large model could do
nothing (0.7 % exact) and fusion ended below the small expert (65.7 against 69.9 %); in
the second the experts could do next to nothing (5 %; the large model 31 %, fine-tuned
77 %) and fusion left the large model where it was (30.5 %; alpha = 0.5: 36 %). No rule
has a parameter that was tuned, but for the tuned static weight.

    python -m experiments run dynamic_logit_fusion                   # minutes
    python -m kljax.data fetch smollm2                               # once, 93 MB
    python -m experiments run dynamic_logit_fusion --preset smollm2
    python -m experiments run dynamic_logit_fusion --preset paper --large.source DIR \\
        --small.source DIR --tasks.folder DIR
"""

# ruff: noqa: RUF009 (the defaults are frozen themselves)
import dataclasses
import itertools
from typing import Any

from experiments import kit
from experiments.harness import bookkeeping
from experiments.papers.dynamic_logit_fusion import findings, scoring
from experiments.papers.dynamic_logit_fusion.lab import FitConfig, Lab, SizeConfig
from kljax.data.readers.python import check_packages
from kljax.data.tasks import TaskConfig
from kljax.decoding.timing import TimingConfig, fusion_times

PAPER = "On Giant's Shoulders: dynamic logit fusion (arXiv 2406.15480)"


@dataclasses.dataclass(frozen=True)
class Config(kit.Settings):
    seeds: int = 3
    packages: tuple[str, ...] = ("numpy", "scipy")
    """Whose docstrings are the base text."""
    characters: int = 3_000_000
    domain: tuple[str, ...] = ()
    """Whose code is a domain of its own, judged by its likelihood."""
    vocabulary: int = 0
    """Tokens that are kept of a published model's vocabulary; 0: all."""
    tasks: TaskConfig = TaskConfig()
    trace: float = 0.5
    """Share of pretraining rows that are task lines, the unseen task's too."""
    length: int = 96
    """Tokens of a row of text."""
    multiple: int = bookkeeping(8)
    """Scored rows are padded to a multiple of this: fewer shapes to compile."""
    max_length: int = 256
    examples: int = 6000
    """Training examples per task."""
    large: SizeConfig = SizeConfig(192, 4, 6)
    """Paper: LLaMA-2 13B."""
    small: SizeConfig = SizeConfig(64, 4, 4)
    """Paper: TinyLLaMA 1.1B or LLaMA-2 7B."""
    large_pretraining: FitConfig = FitConfig(450, 16, 1e-2)
    small_pretraining: FitConfig = FitConfig(250, 16, 1e-2)
    expert: FitConfig = FitConfig(220, 16, 5e-3)
    """Paper: batch 128, 3 epochs, Adam at 2e-5; LoRA of rank 64 at 1e-4."""
    oracle: FitConfig = FitConfig(50, 16, 5e-3)
    soup_weight: float = 0.4
    """Of task arithmetic; not given in the paper."""
    shots: int = 2
    """Solved examples in the prompt; paper: 5."""
    validation: int = 200
    """Examples per task that choose the tuned static weight."""
    test: int = 400
    passages: int = 32
    """Rows of text that the domain's likelihood is measured on."""
    decoded: int = 64
    """Examples per task that are decoded token by token."""
    one_program: bool = bookkeeping(False)
    """Solve by all rules where one is read: less to compile, more to run."""
    chunk: int = bookkeeping(200)
    """Rows per forward pass when scoring."""
    timing: TimingConfig = TimingConfig()

    def __post_init__(self):
        super().__post_init__()
        check_packages("packages", self.packages)
        check_packages("domain", self.domain)


# One recipe and one shape: two programs train all ten models of the smoke preset.
BRIEF = FitConfig(3, 10, 1e-2, muon=False)
# 3 epochs of GSM8K's 7,473 examples at batch 128; one length for all tasks.
PUBLISHED = FitConfig(176, 128, 2e-5, muon=False)
# fmt: off
PRESETS = {
    "smoke": Config(
        seeds=1, packages=("numpy/lib",), characters=60_000, examples=200,
        large=SizeConfig(32, 1, 2), small=SizeConfig(16, 1, 2), multiple=96,
        large_pretraining=BRIEF, small_pretraining=BRIEF, expert=BRIEF, oracle=BRIEF,
        shots=1, validation=16, test=16, decoded=16, one_program=True, chunk=16,
        timing=TimingConfig(512, 48, 2, 4, 2, 96, 16, 1, 2, (1,), 4, 4, 2, ()),
        decide=False,
    ),
    "cpu": Config(),
    "smollm2": Config(
        seeds=1, domain=("numpy",), characters=1_500_000, vocabulary=4096,
        tasks=TaskConfig(spaced=True), large=SizeConfig(source="smollm2"),
        small=SizeConfig(192, 4, 6), small_pretraining=FitConfig(250, 24, 1e-2),
        expert=FitConfig(120, 16, 5e-3),
        # Full fine-tuning of 135 million weights takes longer than all the rest.
        oracle=FitConfig(0, 16, 2e-4, muon=False),
        validation=48, test=96, passages=24, decoded=16, chunk=16,
    ),
    "gpu": Config(
        seeds=5, characters=20_000_000, length=256, max_length=512, examples=50_000,
        tasks=TaskConfig(digits=4, items=8, letters=12, days=90),
        large=SizeConfig(768, 12, 12), small=SizeConfig(256, 8, 8),
        large_pretraining=FitConfig(3000, 64, 5e-3),
        small_pretraining=FitConfig(3000, 64, 1e-2),
        expert=FitConfig(1000, 128, 5e-3), oracle=FitConfig(500, 128, 2e-3), test=1000,
    ),
    "paper": Config(
        seeds=1, large=SizeConfig(source="meta-llama/Llama-2-13b-hf"),
        small=SizeConfig(source="TinyLlama/TinyLlama_v1.1"),
        tasks=TaskConfig(folder="tasks"), examples=10_000_000, length=1024,
        max_length=4096, expert=PUBLISHED, oracle=PUBLISHED, shots=5, validation=500,
        test=100_000, chunk=8,
    ),
}
CLAIMS = (
    kit.Claim(
        "GAP", "With one small expert, fusion gives most of what fine-tuning the large "
        "model gives.", "table 1, from 7B", lambda found: found.of_tuning("dynamic"),
        # As much as the paper prints: a tenth of a per cent.
        kit.all_of(share=kit.at_least(0.9635), closed=kit.at_least(0.9045)),
        findings.OF_TUNING, "0.964 and 0.905 (from 1.1B: 0.73 and 0.28)",
    ),
    kit.Claim(
        "GAP-SEVERAL", "With several experts, and nobody who says which task it is, "
        "fusion still closes part of the gap to fine-tuning (axis rule).",
        "table 2, from 7B; algorithm 1", lambda found: found.of_tuning("axis"),
        kit.all_of(share=kit.at_least(0.8625), closed=kit.at_least(0.1915)),
        f"{findings.OF_TUNING}; fine-tuned per task (the paper's model for all tasks)",
        "0.863 and 0.192 (from 1.1B: 0.71 and -0.69)",
    ),
    kit.Claim(
        "GAIN", "Fusion beats both of its parts: the small expert and the untouched "
        "large model.", "table 1", findings.over_parts, kit.holds_for(3, kit.above(0)),
        paper="46.09 against 44.13 and 29.93 on average",
    ),
    kit.Claim(
        "STATIC", "A weight per token is as good as the best of three fixed ones.",
        "table 1, from 7B", findings.over_fixed, kit.at_least(0, "points"),
        paper="46.09 against 44.43 of proxy-tuning: +1.7 points over alpha = 1",
    ),
    kit.Claim(
        "CONTEXT", "Fusion combines with solved examples in the prompt, which all "
        "models read.", "section on in-context learning", findings.in_context,
        kit.every(kit.above(0)),
    ),
    kit.Claim(
        "COST", "At sizes 12 to 1 fused decoding costs little more than the large "
        "model alone.", "table 3", findings.cost, kit.every(kit.at_most(1.3)),
        paper="2.5 (150 s against 60 s for 13B with 1.1B)",
    ),
    kit.Claim(
        "GRID", "The weight need not be searched: Gauss-Newton scores what the "
        "21-point grid does.", "algorithm 1", findings.grid_gap,
        kit.at_most(1, "points"), ours=True,
    ),
    kit.Claim(
        "TUNED", "Dynamic weights, which saw no validation set, beat one static weight "
        "that is tuned per task on one.", "the paper compares with untuned ones",
        lambda found: found.seen.difference("exact", "dynamic", "tuned_static"),
        kit.interval_above(0), ours=True,
    ),
    kit.Claim(
        "UNSEEN", "Experts do no harm on a task that none of them learnt (axis rule).",
        "not in the paper", findings.unharmed, kit.at_least(0, "points"), ours=True,
    ),
    kit.Claim(
        "DOMAIN", "On text of another domain the fused law is likelier than both of "
        "its parts.", "not in the paper", findings.on_domain, kit.every(kit.below(0)),
        ours=True,
    ),
    kit.Claim(
        "DECODED", "Scoring along the right answer is what greedy decoding gives.",
        "not in the paper", findings.agreement, kit.at_least(99, "%"), ours=True,
    ),
    kit.Claim(
        "BLOCK", "An expert that drafts blocks of 4 tokens, which the large model "
        "verifies, gives the text of the plain loop in half the large model's calls.",
        "not in the paper (speculative decoding of the fused law)", findings.blocks,
        kit.all_of(differing=kit.equal(0), calls=kit.at_most(0.5)), ours=True,
    ),
)
# fmt: on


def run(study: kit.Study) -> findings.Found:
    """Trains, scores, decodes and times; each is a stage that is read back."""
    lab, config = Lab(study), study.config
    every = study.each("scores", lambda s: scoring.seed_scores(lab, s), study.seeds)

    def scores(kind: str, factor: str = "") -> kit.Scores:
        titles = {"exact": "exact match, %", "nats": "nats per token"}
        rows = {
            (method, seed, *level): row
            for seed, found in every.items()
            for (method, *level), row in found[kind].items()
        }
        return kit.Scores(rows, factor=factor, titles=titles)

    found = findings.Found(
        scores("seen", "tasks"),
        scores("unseen", "tasks"),
        scores("domain"),
        [one["chosen"] for one in every.values()],
        study.once("decoding", lambda: scoring.decoded(lab)),
        study.once("timing", lambda: timed(study)),
    )
    sizes = [f"{n / 1e6:.2f} million" for n in lab.weights().values()]
    tests = f"{len(lab.seen)} tasks of {config.test} test examples"
    study.scale = f"{' and '.join(sizes)} weights, {tests}"
    study.metrics |= found.seen.flat()
    findings.tables(study, found)
    findings.pictures(study, found)
    return found


def timed(study: kit.Study) -> dict[str, Any]:
    config, done = study.config.timing, itertools.count(1)
    with study.task("timing", config.turns()) as note:
        return fusion_times(config, after=lambda: note(next(done)))._asdict()
