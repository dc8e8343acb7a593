"""Values on the disk: what comes back, and that nobody sees half of it."""

import json

import numpy as np
import pytest

from kljax.errors import CheckpointError
from kljax.storing import read_back, read_json, read_value, write_json, write_value

VALUE = {
    "rows": {("x", 0): {"y": np.float32(2)}, 7: None},
    "pair": (1, [np.arange(3)]),
    "worst": float("-inf"),
    "word": "nan",
}


def same(found):
    assert found["rows"] == {("x", 0): {"y": 2.0}, 7: None}
    assert isinstance(found["pair"], tuple) and found["pair"][1][0].tolist() == [
        0,
        1,
        2,
    ]
    assert found["worst"] == -np.inf and found["word"] == "nan"


def test_values_come_back_as_they_were(tmp_path):
    path = tmp_path / "d=2.5.json"
    for _ in range(2):  # the second replaces the first, arrays too
        write_value(path, VALUE)
        same(read_value(path))
    same(read_back(VALUE))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["d=2.5", "d=2.5.json"]


def test_a_file_is_replaced_whole_or_left(tmp_path):
    path = tmp_path / "deep" / "x.json"
    write_json(path, {"a": np.float32(np.nan), "path": tmp_path})
    before = path.read_text()
    assert json.loads(before) == {"a": "nan", "path": tmp_path.as_posix()}
    with pytest.raises(TypeError, match=r"value\.b\[1\] has no JSON form"):
        write_json(path, {"b": [1, object()]})
    assert path.read_text() == before
    path.write_text(before[:-3])
    with pytest.raises(CheckpointError, match=r"x\.json is not JSON"):
        read_json(path)
