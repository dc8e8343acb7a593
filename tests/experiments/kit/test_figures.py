"""Names in a picture are read: none lies on another, on a point, or outside."""

import itertools

import numpy as np

from experiments.kit import figures


def test_names_of_points_lie_on_nothing():
    rng = np.random.default_rng(0)
    points = {f"method {i}": tuple(rng.normal(size=2)) for i in range(8)}
    points["beside"] = tuple(np.add(points["method 0"], 0.02))
    figure, (axis, _) = figures.canvas("Two panels", 2, 2, (4.5, 3.8))
    shades = {"method 1": "tab:blue"}
    figures.named(axis, points, shades=shades, marks={"base": (0.0, 0.0)})
    figure.draw_without_rendering()
    boxes = {text.get_text(): text.get_window_extent() for text in axis.texts}
    assert set(boxes) == {*points, "base"}
    for one, other in itertools.combinations(boxes.values(), 2):
        assert not one.overlaps(other)
    for box in boxes.values():
        assert axis.bbox.contains(*box.p0) and axis.bbox.contains(*box.p1)
    spots = axis.transData.transform([*points.values(), (0.0, 0.0)])
    assert not any(box.contains(*spot) for box in boxes.values() for spot in spots)
