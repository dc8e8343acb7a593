"""State, step, loop, checkpoints, run folders, progress and meshes."""

from kljax.training.checkpoints import Checkpoints
from kljax.training.environment import environment
from kljax.training.interruption import Interrupted
from kljax.training.loop import Every, fit
from kljax.training.mesh import (
    data_mesh,
    model_mesh,
    replicate,
    shard_batch,
    start_processes,
)
from kljax.training.optimizers import adam, clipped, warmup_cosine
from kljax.training.players import Loss, LossFn, Player
from kljax.training.population import stacked, taken
from kljax.training.progress import Progress, Task, rich_progress, silent
from kljax.training.runs import FolderInUse, RunFolder, config_hash
from kljax.training.start import init_state
from kljax.training.state import TrainState, state_digest
from kljax.training.step import Step, jit_step, make_step

__all__ = [
    "Checkpoints",
    "Every",
    "FolderInUse",
    "Interrupted",
    "Loss",
    "LossFn",
    "Player",
    "Progress",
    "RunFolder",
    "Step",
    "Task",
    "TrainState",
    "adam",
    "clipped",
    "config_hash",
    "data_mesh",
    "environment",
    "fit",
    "init_state",
    "jit_step",
    "make_step",
    "model_mesh",
    "replicate",
    "rich_progress",
    "shard_batch",
    "silent",
    "stacked",
    "start_processes",
    "state_digest",
    "taken",
    "warmup_cosine",
]
