# ruff: noqa: F401, F403 (what papers take from here)
"""What every paper's experiment needs, so that its own file holds the paper alone.

    claims   a claim: its value and its bar, and the verdict that follows from the two
    bars     when a claim holds, in words and as a test
    scores   numbers by method, seed, metric (and a factor's level)
    study    one run: stages that are stored and read back, training, sweeps
    display  its pictures and tables; `figures` draws them in one look
    judge    for generators of images: a classifier of real ones
    language a language model to start from, and rewards of its texts

A paper is `experiments/papers/NAME.py`, or `NAME/__init__.py` with two modules beside
it at most. It binds `PAPER`, `Config(kit.Settings)`, `PRESETS` (`smoke` and `cpu` at
least), `CLAIMS` (the first is its headline) and `run(study)`, which returns what the
claims' values are taken from. The command line, the report and the smoke test find it.
The first three sentences of its docstring introduce it in the report.

A whole paper in 40 lines stands in `experiments/kit/example.py`. In general:

    study.pin(data=checksum)                        # must not change when it goes on
    study.once(("scores", method, seed), work)      # stored, read back
    study.each("scores", work_of_seed, study.seeds)     # a stage for every one
    study.fit(("train", method, seed), players, state, batches, steps=100)
    study.sweep("train", players_of, {(m, s): own}, state_of, batches, steps=100)
    study.learn("train", loss, {(m, s): own}, optax.adam(0.1), steps=100)   # no data
    study.curve("train", "student/loss")            # steps, values [k, members]
    scores = kit.Scores({(method, seed): {"acc": 0.9}}, titles={"acc": "accuracy, %"})
    scores.difference("acc", "a", "b")              # paired, with an interval
    scores.by_level(lambda s: s.difference("acc", "a", "b"))    # a dict, by level
    kit.tuned(values)       # [rates, seeds]: each seed's rate, chosen on the others
    study.score_table("Accuracy", scores); study.difference_table("...", scores, "b")
    with study.figure("file", "What it shows.", "What is drawn.", panels=2) as axes:
        kit.figures.dots(axes[0], scores, "acc")

Values of claims: a number, an `Estimate`, a list of them for `order`, a dict of them
for `all_of`, `every` and `holds_for`; `Noted(value, note)` adds a remark,
`Noted(value, undecided=why)` shows the number and leaves the claim open. Where a run
lacks a method the claim is "not measured"; a metric that nobody has is an error.
Intervals (`kljax.metrics.estimates`) are Student's, or of resampled units where the
scores say `bootstrap=True`; they are over what `Scores(over=...)` says, and ± is half
of a 95 % interval everywhere.
"""

from experiments.kit import figures
from experiments.kit.bars import *
from experiments.kit.claims import Claim, Noted, verdicts
from experiments.kit.scores import Scores, at_level, tuned
from experiments.kit.study import Settings, Study, grid, perform
from experiments.kit.titles import title
from kljax.metrics.estimates import Estimate, Missing
