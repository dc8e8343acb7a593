"""Two kinds of noisy blobs, for tests of what handles images."""

import numpy as np

from kljax.data.images import Pictures


def some_pictures(n=200, size=8, channels=1, classes=2):
    """Two kinds of noisy blobs; labels are dropped when there are no classes."""
    rng = np.random.default_rng(0)
    ids = (np.arange(n) % max(classes, 1)).astype(np.int32)
    x = (
        rng.normal(size=(n, size, size, channels)) * 0.3
        + ids[:, None, None, None]
        - 0.5
    )
    x = np.clip(x, -1, 1).astype(np.float32)
    half = n // 2
    labelled = classes > 0
    return Pictures(
        train=x[:half],
        held_out=x[half:],
        train_ids=ids[:half] if labelled else None,
        held_out_ids=ids[half:] if labelled else None,
        num_classes=classes,
        levels=256,
        manifest={},
    )
