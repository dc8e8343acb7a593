"""A language model of 30 layers distilled into one of four: which divergence, and why.

Knowledge distillation of language models (Hinton et al. 2015; Kim and Rush 2016) has
moved from forward KL to other divergences: reverse KL (Gu et al. 2024, "MiniLLM"),
generalized Jensen-Shannon and the student's own samples (Agarwal et al. 2024, "GKD"),
skew KL (Ko et al. 2024, "DistiLLM"). Those papers judge long generated answers of
models of 0.1 to 13 billion weights by ROUGE and by GPT-4; none of that is run here.
What is run: SmolLM2-135M as the teacher of four of its layers, which are first trained
on the text alone (one start for all) and then by each divergence or, as the control, by
the text alone for as many steps; real text, the same budget for all, and the measures
that are exact: held-out perplexity, the divergences to the teacher, agreement of first
choices, entropy, calibration. The teacher reads the text once; its hidden states are
stored, and the fused kernel takes them as they are.

    python -m kljax.data fetch smollm2                            # once, 93 MB
    python -m experiments run lm_distillation                     # minutes on two cores
    python -m experiments run lm_distillation --preset sweep      # three seeds
    python -m experiments run lm_distillation --data.path FOLDER  # text of your own
    python -m experiments run lm_distillation --preset gpu        # more text, on policy
    python -m experiments run lm_distillation --teacher.source FOLDER  # your own model

The same command again goes on where it stopped; finished stages are not run again.
"""

import dataclasses
import pathlib

from experiments.distilled_lm import figures
from experiments.distilled_lm import verdicts as judgement
from experiments.distilled_lm.session import Session
from experiments.distilled_lm.students import TEXT, Method, StudentConfig
from experiments.distilled_lm.teachers import TeacherConfig
from experiments.harness import (
    Claim,
    Results,
    bookkeeping,
    check_names,
    check_packages,
)
from kljax.data.text import TextConfig
from kljax.divergences import names
from kljax.training import Progress

PAPER = "Distillation of language models: Hinton 2015, MiniLLM, GKD, DistiLLM"
MINUTES = {"smoke": 0.3, "cpu": 12, "sweep": 30}

DIVERGENCES = ("forward_kl", "reverse_kl", "jensen_shannon", "skew_forward_kl")


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 0
    seeds: int = 1
    """Repetitions with seed, seed + 1, ...: the order of the text (and, without
    student.layers, the first weights)."""
    methods: tuple[str, ...] = (TEXT, *DIVERGENCES)
    """Divergences, with /on_policy behind where the student writes a share of the
    batches; cross_entropy is the text alone."""
    data: TextConfig = dataclasses.field(default_factory=TextConfig)
    teacher: TeacherConfig = dataclasses.field(default_factory=TeacherConfig)
    student: StudentConfig = dataclasses.field(default_factory=StudentConfig)
    evaluations: int = 6
    """How often the held-out text is looked at in training."""
    shown: int = 24
    """Windows of it that are looked at then."""
    decide: bool = True
    """Whether the run is long enough for verdicts on the claims."""
    checkpoint_every: int = bookkeeping(500)

    def __post_init__(self):
        check_names("methods", self.methods, (TEXT, *names()), suffix="on_policy")
        for method in self.methods:
            Method.parse(method)
        if self.data.path is None:
            check_packages("data.packages", self.data.packages)
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}")


PRESETS = {
    "smoke": Config(
        methods=("jensen_shannon/on_policy",),  # text alone is what comes before it
        data=TextConfig(
            packages=("numpy",), files=40, tokens=4096, held_out=512, length=32
        ),
        teacher=TeacherConfig(source=None, width=32, depth=2, steps=120, batch=16),
        student=StudentConfig(
            layers=(0,), text_steps=10, text_rate=1e-2, steps=20, learning_rate=1e-2
        ),
        evaluations=3,
        shown=8,
        decide=False,
    ),
    "cpu": Config(),
    "sweep": Config(seeds=3),
    # Not run by us: no accelerator was at hand. 2.4 GB of hidden states on the disk.
    "gpu": Config(
        seeds=3,
        methods=(TEXT, *DIVERGENCES, "skew_reverse_kl", "jensen_shannon/on_policy"),
        data=TextConfig(tokens=2_097_152, held_out=65_536, length=256),
        student=StudentConfig(
            layers=(0, 1, 2, 3, 28, 29), text_steps=200, steps=1000, batch=32
        ),
        shown=64,
    ),
    # The papers' kind of pair, by path: a teacher of some billion weights in the folder
    # `teacher`, text in `corpus`, a student of GPT-2's size. Our rates and lengths.
    # Stores 2 bytes per token and number of the teacher's width. Never run by us.
    "paper": Config(
        seeds=3,
        methods=(
            TEXT,
            *DIVERGENCES,
            "skew_reverse_kl",
            "forward_kl/on_policy",
            "reverse_kl/on_policy",
            "jensen_shannon/on_policy",
            "skew_forward_kl/on_policy",
        ),
        data=TextConfig(path="corpus", tokens=4_194_304, held_out=262_144, length=512),
        teacher=TeacherConfig(source="teacher"),
        student=StudentConfig(
            layers=(),
            width=768,
            depth=12,
            heads=12,
            kv_heads=12,
            hidden=2048,
            text_steps=5000,
            steps=20_000,
            batch=32,
        ),
        shown=256,
    ),
}

CLAIMS = (
    Claim(
        "OWN",
        "A divergence gets what it asks for: among the students, each one leads in the "
        "divergence that it was trained by.",
        "what minimizing means; not in the papers",
        "held-out means of the four divergences, students of the four divergences",
        "all lead in their own",
    ),
    Claim(
        "SOFT",
        "A teacher's whole distribution teaches more per token of text than the token "
        "that the text has.",
        "Hinton et al. 2015",
        "held-out nats per token against the text, forward KL minus text alone, paired "
        "by window",
        "95 % interval below 0",
    ),
    Claim(
        "COVER",
        "Forward KL covers all that the teacher holds possible, and so assigns the "
        "text the best likelihood of the divergences.",
        "Gu et al. 2024; Agarwal et al. 2024",
        "held-out nats, forward KL minus the best other divergence, paired",
        "95 % interval below 0",
    ),
    Claim(
        "SEEK",
        "Reverse KL seeks the teacher's modes: its students' predictions are sharper "
        "than forward KL's, with Jensen-Shannon's between them.",
        "Agarwal et al. 2024; Gu et al. 2024",
        "mean entropy of the held-out predictions, paired differences",
        "reverse KL < JS < forward KL, both 95 % intervals below 0",
    ),
    Claim(
        "AGREE",
        "A student trained by reverse KL chooses as its teacher does more often.",
        "our reading of mode seeking (Gu et al. 2024)",
        "share of held-out tokens with the same first choice, reverse minus forward",
        "95 % interval above 0",
    ),
    Claim(
        "SKEW",
        "Skew KL (beta = 0.1) comes closer to the teacher than forward KL at the same "
        "budget.",
        "Ko et al. 2024 (there by ROUGE-L of answers)",
        "held-out Jensen-Shannon divergence to the teacher, which neither was trained "
        "by, skew KL minus forward KL, paired",
        "95 % interval below 0",
    ),
    Claim(
        "CALIBRATION",
        "Reverse KL gives a better calibrated student than forward KL.",
        "Gu et al. 2024 (there with the student's own samples)",
        "confidence minus accuracy of first choices on the text, reverse minus forward "
        "KL, paired; ECE beside it",
        "95 % interval below 0",
    ),
    Claim(
        "ON-POLICY",
        "A student that also learns on text of its own is closer to the teacher.",
        "Agarwal et al. 2024",
        "held-out KL(q‖p), JS on policy minus JS, paired; on given text, hence not "
        "where the papers see the gain",
        "95 % interval below 0",
    ),
    Claim(
        "FUSED",
        "The fused loss equals the one over logits of all tokens, in value and in both "
        "gradients.",
        "performance of this library; not in the papers",
        "largest relative difference of norms on a batch of this run",
        "<= 1e-4",
    ),
)


def run(config: Config, *, workdir: pathlib.Path, progress: Progress) -> Results:
    """Teacher, students and scores; each stage is read back when it is finished."""
    with Session(config, workdir, progress) as session:
        evidence = judgement.Evidence(session.results())
        facts = session.facts()
        pictures = figures.draw(session.run.figures, evidence)
    return Results(
        metrics=judgement.metrics(evidence, facts),
        tables=judgement.tables(evidence, facts),
        figures=pictures,
        verdicts=judgement.verdicts(evidence, decide=config.decide),
    )
