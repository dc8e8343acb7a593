"""The stages of a logit fusion run: training, scores per seed, decoding, timing."""

import functools
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.fusion import decoding, scoring
from experiments.fusion.batches import Corpus
from experiments.fusion.panel import Panel
from experiments.fusion.tasks import Example, draw, few_shot, line
from experiments.fusion.training import Models, Trainer, shrunk
from experiments.harness import mathematics
from kljax.data.pairs import Rows, encoded
from kljax.data.readers.python import code, prose
from kljax.models.files.pretrained import Pretrained, from_pretrained
from kljax.models.files.tokenizer import Tokenizer
from kljax.models.language.vocabulary import Characters, Kept
from kljax.training import Progress, RunFolder

__all__ = ["Session"]

ALL = tuple(scoring.ONE)
Result = dict[str, Any]


class Session:
    """A run's texts, models and stages."""

    def __init__(self, config: Any, workdir: pathlib.Path, progress: Progress):
        self.config, self.progress = config, progress
        self.seen, self.unseen = config.tasks.names()
        # Other versions of the packages give a slightly different text: its checksum is
        # part of the configuration.
        text = prose(config.packages, config.characters)
        other = code(config.domain, config.characters)
        published: dict[str, Any] = {}
        sources = {}
        for size in ("large", "small"):
            if name := getattr(config, size).source:
                sources[size] = from_pretrained(name)
        self.vocabulary: Any = Characters()
        if sources:
            tokenizer = _shared_tokenizer(list(sources.values()))
            lines = self._lines()
            self.vocabulary = Kept(tokenizer, lines, text + other, config.vocabulary)
            kept = self.vocabulary.kept
            published = {k: shrunk(v, kept) for k, v in sources.items()}
            del sources
        self.text, self.domain = (
            np.asarray(self.vocabulary.encode(one), np.int32) for one in (text, other)
        )
        facts = {"text": _checksum(text), "domain": _checksum(other)}
        self.folder = RunFolder(workdir, mathematics(config) | {"checksums": facts})
        self.trainer = Trainer(
            config, self.folder, progress, self.vocabulary.size, published
        )
        # Where nothing takes time, a second program costs more than unread rules.
        self.dynamic = ALL if config.one_program else ("dynamic",)
        plain, solved = self._lengths(0), self._lengths(config.shots)
        self.row_length = {0: plain[0], config.shots: solved[0]}
        self.answer_length = plain[1]
        self.seeds = tuple(100 * config.seed + i for i in range(config.seeds))

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exception: object) -> None:
        self.folder.close()

    def _lines(self) -> list[str]:
        """Lines of all tasks, whose tokens a trimmed vocabulary must have."""
        found = []
        for task in (*self.seen, *self.unseen):
            for split in ("validation", "test"):
                found += draw(task, split, 500, self.config.tasks, 0)
        return [line(one) for one in found]

    def _drawn(self, task: str, split: str, count: int, shots: int) -> list[Example]:
        """Examples that no model was trained on, the same for all seeds."""
        drawn = draw(task, split, count, self.config.tasks, 1)
        if shots:
            solved = draw(task, "train", 50, self.config.tasks, 2)
            drawn = few_shot(drawn, solved, shots)
        return drawn

    def _lengths(self, shots: int) -> tuple[int, int]:
        """Tokens of the longest scored row of any task, and of its longest answer."""
        row, target = 0, 0
        for task in (*self.seen, *self.unseen):
            for split, count in (
                ("test", self.config.test),
                ("validation", self.config.validation),
            ):
                rows = encoded(
                    self.vocabulary,
                    _pairs(self._drawn(task, split, count, shots)),
                    multiple=self.config.multiple,
                )
                row = max(row, rows.tokens.shape[1])
                target = max(target, int(rows.answer.sum(axis=1).max()))
        return row, target

    def corpus(self, seed: int) -> Corpus:
        """What a seed's models are trained on."""
        return Corpus(
            self.vocabulary,
            self.text,
            self.config.tasks,
            domain=self.domain,
            trace=self.config.trace,
            length=self.config.length,
            examples=self.config.examples,
            seed=seed,
        )

    @functools.cache  # noqa: B019 (one session per run)
    def models(self, seed: int) -> tuple[Corpus, Models]:
        """A seed's data and trained models."""
        corpus = self.corpus(seed)
        return corpus, self.trainer.models(corpus, seed)

    # ------------------------------------------------------------ scores

    def rows(self, task: str, split: str, count: int, shots: int = 0) -> Rows:
        """Scored examples, rows of one length for all tasks."""
        drawn = self._drawn(task, split, count, shots)
        return encoded(self.vocabulary, _pairs(drawn), least=self.row_length[shots])

    def scores(self, seed: int) -> Result:
        """All rows of a seed's tables."""
        stage = f"scores-s{seed}"
        found = self.folder.stage_result(stage)
        if found is None:
            corpus, models = self.models(seed)
            task = self.progress.task(stage, len(self.seen) + len(self.unseen))
            found = {"tasks": {}, "unseen": {}}
            for kind, names in (("tasks", self.seen), ("unseen", self.unseen)):
                for name in names:
                    found[kind][name] = (
                        self.task_scores(models, name)
                        if kind == "tasks"
                        else self.unseen_scores(models, name)
                    )
                    task.update(len(found["tasks"]) + len(found["unseen"]))
            if len(self.domain):
                found["domain"] = self.domain_scores(corpus, models)
            task.close()
            self.folder.finish_stage(stage, found)
        return found

    def task_scores(self, models: Models, task: str) -> Result:
        """Every row of the table on a task that has an expert."""
        config = self.config
        check = Panel(self, models, self.rows(task, "validation", config.validation))
        weight = check.tuned_weight(check.expert(task)[..., None, :])
        panel = Panel(self, models, self.rows(task, "test", config.test))
        own = panel.expert(task)[..., None, :]
        rows = {
            "large base": panel.alone(panel.large),
            "small base": panel.alone(panel.small),
            "small expert": panel.alone(panel.expert(task)),
        }
        if task in models.oracles:
            tuned = panel._logits("large", models.oracles[task])
            rows["large fine-tuned"] = panel.alone(tuned)
        single = panel.fused(ALL, own, weight)
        several = panel.fused(tuple(scoring.MANY), panel.experts())
        merged = panel.fused(self.dynamic, panel.soup()[..., None, :])
        every = {**single, **several, "soup": merged["dynamic"]}
        rows |= {k: (v.exact.mean(), v.nats.mean()) for k, v in every.items()}
        if config.shots:
            rows |= self.context_scores(models, task)
        differ = single["dynamic"].exact != single["grid"].exact
        chosen = np.asarray(several["axis"].alpha)[panel.where].argmax(-1)
        return {
            **_split(rows),
            "tuned_weight": weight,
            "alpha": panel.histogram(single["dynamic"].alpha),
            "grid_differs": float(np.mean(differ)),
            "axis_chooses_own": float(np.mean(chosen == self.seen.index(task))),
        }

    def context_scores(self, models: Models, task: str) -> dict[str, Any]:
        """The same behind solved examples, which all models read."""
        rows = self.rows(task, "test", self.config.test, self.config.shots)
        panel = Panel(self, models, rows)
        own = panel.expert(task)[..., None, :]
        fused = panel.fused(self.dynamic, own)["dynamic"]
        return {
            "large few-shot": panel.alone(panel.large),
            "expert few-shot": panel.alone(panel.expert(task)),
            "dynamic few-shot": (fused.exact.mean(), fused.nats.mean()),
        }

    def unseen_scores(self, models: Models, task: str) -> Result:
        """Several experts on a task that none of them learnt."""
        panel = Panel(self, models, self.rows(task, "test", self.config.test))
        experts = panel.experts()
        several = panel.fused(tuple(scoring.MANY), experts)
        merged = panel.fused(self.dynamic, panel.soup()[..., None, :])
        best = max(panel.alone(experts[..., i, :]) for i in range(experts.shape[-2]))
        rows = {
            "large base": panel.alone(panel.large),
            "small base": panel.alone(panel.small),
            "best small expert": best,
        }
        every = {**several, "soup": merged["dynamic"]}
        rows |= {k: (v.exact.mean(), v.nats.mean()) for k, v in every.items()}
        return _split(rows)

    def domain_scores(self, corpus: Corpus, models: Models) -> Result:
        """Nats per token of held-out text of another kind."""
        check = Panel(self, models, corpus.domain_rows(self.config.passages, True))
        weight = check.tuned_weight(check.expert("domain")[..., None, :], exact=False)
        panel = Panel(self, models, corpus.domain_rows(self.config.passages))
        own = panel.expert("domain")[..., None, :]
        rows = {
            "large base": panel.alone(panel.large),
            "small base": panel.alone(panel.small),
            "small expert": panel.alone(panel.expert("domain")),
        }
        if "domain" in models.oracles:
            tuned = panel._logits("large", models.oracles["domain"])
            rows["large fine-tuned"] = panel.alone(tuned)
        single = panel.fused(ALL, own, weight)
        rows |= {k: (v.exact.mean(), v.nats.mean()) for k, v in single.items()}
        return {
            "nats": _split(rows)["nats"],
            "tuned_weight": weight,
            "alpha": panel.histogram(single["dynamic"].alpha),
        }

    # ------------------------------------------------------------ decoding and time

    def decoded(self) -> Result:
        """Real decoding of the first seed: is it what the scores say?"""
        found = self.folder.stage_result("decoding")
        if found is None:
            models = self.models(self.seeds[0])[1]
            found = {"tasks": {}}
            for task in self.seen:
                rows = self.rows(task, "test", self.config.decoded)
                panel = Panel(self, models, rows)
                scored = panel.fused(self.dynamic, panel.expert(task)[..., None, :])
                parts = [
                    (self.trainer.apply["large"], models.large),
                    (self.trainer.apply["small"], models.small),
                    (self.trainer.apply["small"], models.experts[task]),
                ]
                made = decoding.decode(self.vocabulary, parts, rows, self.answer_length)
                right = [
                    decoding.answer(self.vocabulary, rows, i) for i in range(len(rows))
                ]
                exact = _equal(made.texts, right)
                found["tasks"][task] = {
                    "prompt": self.vocabulary.decode(rows.prompt(0)[1:]),
                    "decoded": made.texts[0],
                    "right": right[0],
                    "exact": float(exact.mean()),
                    "agrees": float(np.mean(exact == scored["dynamic"].exact)),
                    "blocks_differ": int((~_equal(made.texts, made.drafted)).sum()),
                    "calls": made.calls,
                }
            self.folder.finish_stage("decoding", found)
        return found

    def timed(self) -> Result:
        """Milliseconds per token and of every part."""
        found = self.folder.stage_result("timing")
        if found is None:
            found = decoding.timed(self.config.timing, self.progress)
            self.folder.finish_stage("timing", found)
        return found

    def training_seconds(self) -> dict[str, tuple[float, float]]:
        """Wall and process seconds of training by kind, all seeds.

        Of a stage that was resumed, those since it was.
        """
        found: dict[str, tuple[float, float]] = {}
        for path in sorted((self.folder.path / "stages").glob("*-s*.json")):
            result = self.folder.stage_result(path.stem)
            if result is not None and "wall_seconds" in result:
                kind = path.stem.rpartition("-s")[0]
                wall, cpu = found.get(kind, (0.0, 0.0))
                found[kind] = (
                    wall + result["wall_seconds"],
                    cpu + result["cpu_seconds"],
                )
        return found


def _shared_tokenizer(models: list[Pretrained]) -> Tokenizer:
    """The one tokenizer of published models.

    Raises:
        ValueError: a model has none, or they have different ones.
    """
    found = []
    for model in models:
        if model.tokenizer is None:
            raise ValueError(
                f"{model.source} has no tokenizer.json: give the folder of a model "
                "with its tokenizer"
            )
        found.append(model.tokenizer)
    for model, one in zip(models, found, strict=True):
        if one.vocabulary != found[0].vocabulary:
            raise ValueError(
                f"{models[0].source} and {model.source} have different vocabularies: "
                "fusion adds logits of the same tokens; choose models with one "
                "tokenizer"
            )
    return found[0]


def _equal(some: Sequence[str], others: Sequence[str]) -> np.ndarray:
    return np.array([a == b for a, b in zip(some, others, strict=True)])


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _pairs(examples: Sequence[Example]) -> list[tuple[str, str]]:
    return [(one.prompt, one.answer) for one in examples]


def _split(rows: dict[str, tuple[Any, Any]]) -> Result:
    """Two dicts of plain numbers."""
    return {
        "exact": {k: float(v[0]) for k, v in rows.items()},
        "nats": {k: float(v[1]) for k, v in rows.items()},
    }
