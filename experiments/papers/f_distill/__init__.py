"""One-step distillation of a diffusion model by f-divergence matching (f-distill).

Paper: Xu, Nie and Vahdat 2025, "One-step Diffusion Models with f-Divergence
Distribution Matching", arXiv 2502.15681. It trains a generator that makes an image in
one network evaluation and is about as good as its teacher with 35, for six
f-divergences whose only difference is a weight h(r) = r^2 f''(r) of the score
difference. What is run here: a class-conditional EDM teacher on scikit-learn's 8x8
digits, two students (Jensen-Shannon and reverse KL, which is DMD2), all judged with the
features of a small classifier; the paper's FID uses Inception, so its numbers are not
comparable with these, only ratios are. CIFAR-10 and ImageNet-64 with the paper's
settings are the preset `paper` (--data.fetch asks a hub; never run by us).

    python -m experiments run f_distill                      # digits, about 4 minutes
    python -m experiments run f_distill --preset sweep       # 6 divergences, 3 seeds
    python -m experiments run f_distill --data.path FOLDER   # images of your own
    python -m experiments run f_distill --preset gpu         # Fashion-MNIST, U-Net

The same command again goes on where it stopped; finished stages are not run again.
"""

import dataclasses
from typing import Any

from experiments import kit
from experiments.harness import bookkeeping, check_names
from experiments.kit.judge import JudgeConfig
from experiments.papers.f_distill import claims
from experiments.papers.f_distill.lab import (
    DIVERGENCES,
    Lab,
    StudentConfig,
    TeacherConfig,
)
from kljax.data import from_unit
from kljax.data.images import first_of_classes
from kljax.data.sources import find
from kljax.models.vision.denoisers import DenoiserConfig

PAPER = "f-distill: one-step diffusion by f-divergence matching (arXiv 2502.15681)"
CLAIMS = claims.CLAIMS


@dataclasses.dataclass(frozen=True)
class DataConfig:
    name: str = "digits"
    """digits, mnist5k, fashion_mnist, cifar10; with a path only a label."""
    path: str | None = None
    """idx file or folder, .npz, or folder of images: square, 8 to 64 pixels."""
    root: str | None = bookkeeping(None)
    """Cache folder for named data sets."""
    fetch: bool = bookkeeping(False)
    """Allow a download of a named data set."""

    def __post_init__(self):
        if self.path is None:
            find(self.name, "images")


@dataclasses.dataclass(frozen=True)
class Config(kit.Settings):
    students: tuple[str, ...] = ("jensen_shannon", "reverse_kl")
    """Divergences; with /no_gan behind, the student goes without the GAN term."""
    together: bool = False
    """Train all students of a seed in one program (`vmap`), on the same noise. For
    MLPs and accelerators; on two CPU cores one after the other is no slower."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: DenoiserConfig = dataclasses.field(default_factory=DenoiserConfig)
    teacher: TeacherConfig = dataclasses.field(default_factory=TeacherConfig)
    student: StudentConfig = dataclasses.field(default_factory=StudentConfig)
    judge: JudgeConfig = dataclasses.field(default_factory=JudgeConfig)

    def __post_init__(self):
        super().__post_init__()
        check_names("students", self.students, DIVERGENCES, suffix="no_gan")


CPU = Config()  # the measured recipe for 8x8 digits
NAMED = ("forward_kl", "jensen_shannon", "squared_hellinger", "jeffreys",
         "softened_reverse_kl", "reverse_kl")  # fmt: skip
PRESETS = {
    "smoke": Config(
        decide=False, model=DenoiserConfig(kind="mlp", width=32, depth=1),
        teacher=TeacherConfig(steps=30, batch=64, sampler_steps=4),
        student=StudentConfig(steps=20, batch=32),
        judge=JudgeConfig(samples=300, copies=100, steps=20, batch=32, at_most=500),
    ),
    "cpu": CPU,
    "sweep": Config(
        seeds=3, together=True,
        students=(*NAMED, "jensen_shannon/no_gan", "reverse_kl/no_gan"),
    ),
    # At half the length, for five seeds: is an adaptive divergence worth its while?
    "adaptive": Config(
        seeds=5, together=True,
        students=("jensen_shannon", "reverse_kl", "forward_kl", "adaptive_alpha"),
        student=StudentConfig(steps=750),
    ),
    # Not tuned: the recipe's settings, with the network and the batch of a larger
    # machine.
    "gpu": Config(
        data=DataConfig(name="fashion_mnist"),
        students=("jensen_shannon", "reverse_kl", "forward_kl"),
        model=DenoiserConfig(kind="unet", width=64, depth=2, attention=(14, 7)),
        teacher=TeacherConfig(
            steps=12_000, batch=512, learning_rate=5e-4, log_sigma_mean=-1.2
        ),
        student=StudentConfig(
            steps=3000, batch=256, learning_rate=2e-4, critic_rate=2e-4
        ),
        judge=JudgeConfig(steps=3000),
    ),
    # Table 5 of the paper, column CIFAR-10, and EDM's network for it. ImageNet-64:
    # --model.width 192 --model.multipliers 1 2 3 4 --model.depth 3 --student.batch 512
    # --student.steps 380000 --student.gan-weight 3e-3 --student.learning-rate 2e-6
    # --student.critic-rate 2e-6 --student.r1-weight 0
    "paper": Config(
        data=DataConfig(name="cifar10"), students=NAMED,
        model=DenoiserConfig(  # EDM: SongUNet, 128 channels, 2-2-2, 4 blocks
            kind="unet", width=128, multipliers=(2, 2, 2), depth=4, attention=(16,)
        ),
        teacher=TeacherConfig(  # EDM: 200 M images in batches of 512
            steps=390_000, batch=512, learning_rate=1e-3, warmup=20_000, b2=0.999,
            ema=0.9999, log_sigma_mean=-1.2,
        ),
        student=StudentConfig(
            # Table 5.
            steps=60_000, batch=2048, gan_weight=1e-3, critic_steps=5, r1_weight=1.0,
            learning_rate=1e-4, critic_rate=1e-4, weight_decay=1e-2,
            # FastGen's configuration; the rate is constant.
            final_rate=1.0, b1=0.9, b2=0.999, ema=0.9999, fake_weight="plain",
            # DMD2, FastGen.
            noise="karras", sigma_min=0.002, sigma_max=80.0, start_sigma=80.0,
        ),
        judge=JudgeConfig(samples=50_000, steps=20_000),
    ),
}  # fmt: skip


TITLES = {
    "ratio": "FID / teacher",
    "fid": "FID",
    "precision": "precision",
    "recall": "recall",
    "coverage": "coverage",
    "class_agreement": "right class",
    "images_per_second": "images / s",
    "evaluations": "evaluations",
    "copies": "copies",
    "nearest_median": "nearest, median",
    "closer_than_held_out": "nearer than held-out 1 %",
}
SHORT = tuple(TITLES)[:7]


def run(study: kit.Study) -> claims.Evidence:
    """Trains, distils, samples, judges; every stage is resumed or read back."""
    config, lab = study.config, Lab(study)
    facts = study.once("judge", lambda: lab.judge[1])
    models = kit.grid(("teacher", *config.students), study.seeds)
    made = study.each("score", lambda one: lab.score(*one), models)
    for (_, seed), one in made.items():
        one["row"]["ratio"] = one["row"]["fid"] / made["teacher", seed]["row"]["fid"]
    judged = config.judge.samples
    real = lambda: lab.judge[0].controls(lab.codec, judged)  # noqa: E731
    controls = study.once("controls", real)
    rows = {label: one["row"] for label, one in made.items()}
    scores = kit.Scores(rows, titles=TITLES)
    pictures, manifest = lab.pictures, lab.pictures.manifest
    kept = ("name", "source", "sha256", "synthetic", "known_content", "split_rule")
    found = {
        "data": {k: manifest.get(k) for k in kept},
        "data/shape": pictures.shape,
        "data/train": len(pictures.train),
        "data/held_out": len(pictures.held_out),
        "data/classes": pictures.num_classes,
        "data/sigma": lab.sigma_data,
        "denoiser/parameters": lab.parameters,
        "student/start_sigma": lab.start_sigma,
        "student/steps": config.student.steps,
    } | {f"judge/{k}": v for k, v in facts.items()}
    study.scale = (
        f"{len(pictures.train)} images of {'x'.join(map(str, pictures.shape[:2]))} "
        f"({manifest['name']}), {lab.parameters / 1e6:.2f} M parameters"
    )
    numbers = {f"{k}/{key}": v for k, row in controls.items() for key, v in row.items()}
    flat = {k: v for k, v in scores.flat().items() if "_second" not in k}
    study.metrics |= found | flat | numbers
    is_cpu = dataclasses.replace(config, seed=CPU.seed) == CPU
    costs = study.stages.costs() if is_cpu else None
    evidence = claims.Evidence(scores, controls, found, costs)
    table(study, lab, evidence)
    draw(study, lab, evidence, {label: one["images"] for label, one in made.items()})
    return evidence


def table(study: kit.Study, lab: Lab, found: claims.Evidence) -> None:
    """All models and what real images score; the short one is for the terminal."""
    judge, pictures = study.config.judge, lab.pictures
    controls, facts = found.controls, found.facts
    height, width, channels = pictures.shape
    stand_in = ", A SYNTHETIC STAND-IN" * bool(facts["data"].get("synthetic"))
    title = (
        f"{facts['data']['name']}: {len(pictures.train)} training images, "
        f"{height} x {width}, {'gray' if channels == 1 else 'color'}{stand_in}"
    )
    caption = (
        f"Denoiser: {lab.description}; batch {lab.batches[0]} (teacher), "
        f"{lab.batches[1]} (students). FID: {judge.samples} samples against the "
        "training images, in percent of the variance of 64 features of a classifier "
        f"trained on {facts['judge/trained_on']} from a fixed seed (held-out accuracy "
        f"{facts['judge/accuracy']:.3f}, weights {facts['judge/sha256'][:12]}); "
        "samples are rounded to the data's gray levels. Precision, recall and "
        f"coverage: k = {judge.neighbors}, equal numbers of real and generated; recall "
        "grows when samples scatter, read it with precision and coverage. Right class: "
        "read back by the judge. Fresh ones: expected of as many real images. "
        "Copies: nearest training image at less than a third of the second's distance "
        "(nearest, median: that distance in pixel space). A student below its "
        "teacher's FID is partly pulled toward the training images (last column: share "
        "nearer to one of them than 99 % of held-out images are)."
    )
    others = {
        "real, halves": controls["halves"],
        "real, held out": controls["held_out"],
        "real, fresh ones": {"fid": controls["halves"]["floor"]},
        "Gaussian per class": controls["gaussian"],
        "training images": controls["resampled"],
    }
    if "decoded" in controls:
        others["real, decoded"] = controls["decoded"]
    # Without labels there is no class to read back.
    keys = [key for key in TITLES if key in found.scores.metrics()]
    options: Any = {"every": keys, "spread": False, "more": others}
    short = [key for key in SHORT if key in keys]
    study.score_table(title, found.scores, short, caption=caption, **options)


def draw(study: kit.Study, lab: Lab, found: claims.Evidence, images: dict) -> None:
    """The grid of pictures, by model and seed, and the scores."""
    scores, pictures, seed = found.scores, lab.pictures, study.seeds[0]
    real = from_unit(pictures.train, pictures.levels)
    rows = first_of_classes(pictures.train_ids, len(real), pictures.num_classes)
    panels = {"real": real[rows]}
    for name in scores.methods:
        calls = scores.rows[name, seed, None]["evaluations"]
        panels[f"{kit.title(name)}, {calls:.0f} eval."] = images[name, seed]
    kind = "a class" if pictures.train_ids is not None else "no class"
    size: Any = {"panels": len(panels), "columns": 4, "size": (4.2, 4.2)}
    with study.figure(
        "samples",
        "What students draw in one evaluation, and their teacher in many.",
        f"Real images, the teacher and its students (seed {seed}); each row is {kind}, "
        "all models saw the same noise.",
        **size,
    ) as axes:
        for axis, (name, grid) in zip(axes, panels.items()):
            kit.figures.pictures(axis, grid, pictures.levels, title=name)
    kinds = ("fid", "precision", "recall", "coverage")
    taught, *fids = (scores.mean("fid", name) for name in scores.methods)
    size = {"panels": 4, "columns": 4, "size": (3.4, 1.8 + 0.25 * len(scores.methods))}
    with study.figure(
        "scores",
        f"FID: students {min(fids):.2f} to {max(fids):.2f}, their teacher {taught:.2f}",
        "Means over seeds with 95 % intervals, a dot per seed; dotted is what real "
        "images score. FID: lower is better.",
        **size,
        sharey=True,
    ) as axes:
        for axis, key in zip(axes, kinds):
            level = found.controls["halves"]["floor" if key == "fid" else key]
            kit.figures.dots(axis, scores, key, levels={"real": level})
