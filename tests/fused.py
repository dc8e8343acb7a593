"""`token_divergence` of heads that are given as arrays by name."""

import kljax.divergences as kd


def hidden(arrays, side, cap=None):
    """A side, out of ``p_hidden``, ``p_head``, ``p_bias`` and the like."""
    found = (arrays.pop(f"{side}_{k}", None) for k in ("hidden", "head", "bias"))
    return kd.Hidden(*found, cap)


def divergence(name, *, soft_cap=None, **options):
    """Of two heads; one soft-cap for both, or a pair."""
    caps = soft_cap if isinstance(soft_cap, tuple) else (soft_cap, soft_cap)
    p, q = (hidden(options, side, cap) for side, cap in zip("pq", caps))
    return kd.token_divergence(p, q, name, **options)


def cross_entropy(labels, *, soft_cap=None, reduction="mean", **options):
    """Of a head and labels."""
    q = hidden(options, "q", soft_cap)
    return kd.label_cross_entropy(labels, q, reduction=reduction, **options)


def topk(name, *, log_p_topk, ids, log_tail=None, soft_cap=None, **options):
    """Of lists and a head."""
    q = hidden(options, "q", soft_cap)
    return kd.token_divergence(kd.TopK(log_p_topk, ids, log_tail), q, name, **options)


def restricted(name, *, log_p_topk, ids, soft_cap=None, **options):
    """Of lists and a head, given that the outcome is listed."""
    q = hidden(options, "q", soft_cap)
    return kd.token_divergence(kd.Restricted(log_p_topk, ids), q, name, **options)


def dense_topk(log_p, ids, q_logits, name, *, log_tail=None, **options):
    """Of lists and logits, of each token and of any rank."""
    p, q = kd.TopK(log_p, ids, log_tail), kd.Logits(q_logits)
    return kd.token_divergence(p, q, name, reduction="none", **options)
