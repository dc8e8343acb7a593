"""How methods are shown: one table, so that all papers call them alike."""

TITLES = {
    "cross_entropy": "text alone",
    "forward_kl": "forward KL",
    "reverse_kl": "reverse KL",
    "jensen_shannon": "JS",
    "skew_forward_kl": "skew KL",
    "skew_reverse_kl": "skew reverse KL",
    "softened_reverse_kl": "softened RKL",
    "squared_hellinger": "Hellinger²",
    "total_variation": "TV",
    "jeffreys": "Jeffreys",
    "pearson_chi2": "Pearson χ²",
    "neyman_chi2": "Neyman χ²",
    "le_cam": "Le Cam",
}


def title(name: str) -> str:
    """A method as it is shown.

    Example:
        >>> title("forward_kl/on_policy"), title("both KLs")
        ('forward KL, on policy', 'both KLs')
    """
    head, _, tail = name.partition("/")
    shown = TITLES.get(head, head.replace("_", " "))
    return f"{shown}, {tail.replace('_', ' ')}" if tail else shown
