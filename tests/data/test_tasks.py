"""Tasks with one right answer: solved by other means, splits that cannot overlap."""

import datetime
import json

import pytest

from kljax.data.tasks import (
    MONTHS,
    TASKS,
    UNSEEN,
    Example,
    TaskConfig,
    draw,
    few_shot,
)
from kljax.errors import DataError


def solve(task, prompt):
    """The answer by other means than the task's own."""
    body = prompt.removesuffix("=")
    if task == "add":
        a, b = body.split("+")
        found, carry = [], 0
        for x, y in zip(reversed(a), reversed(b), strict=True):
            total = sum(map(int, (x, y, carry)))
            found.append(f"{x}+{y}+{carry}={total}")
            carry = str(total)[-2:-1] or 0
        return " ".join([*found, str(int(a) + int(b))])
    if task == "date":
        day, days = body.split("+")
        end = datetime.date.fromordinal(
            datetime.date.fromisoformat(day).toordinal() + int(days)
        )
        return f"{end.day} {MONTHS[int(end.strftime('%m')) - 1]} {end:%Y}"
    verb, text = body.split(" ", 1)
    if verb == "flip":
        return "".join(text[-i - 1] for i in range(len(text)))
    order = sorted(map(int, text.split()), reverse=verb == "down")
    return " ".join(map(str, order))


@pytest.mark.parametrize("task", [*TASKS, *UNSEEN])
def test_answers_are_right_and_splits_do_not_overlap(task):
    config = TaskConfig(digits=3, days=40)
    splits = {s: draw(task, s, 300, config, 0) for s in ("train", "validation", "test")}
    for one in splits["test"]:
        assert one.answer == solve(task, one.prompt)
    seen = [{one.identity for one in part} for part in splits.values()]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    assert draw(task, "test", 300, config, 0) == splits["test"]
    assert draw(task, "test", 300, config, 1) != splits["test"]


def test_mirror_images_share_a_split():
    one = [e for e in draw("add", "test", 400, TaskConfig(digits=1), 0)]
    pairs = {e.prompt for e in one}
    train = {e.prompt for e in draw("add", "train", 2000, TaskConfig(digits=1), 0)}
    for prompt in pairs:
        a, b = prompt.removesuffix("=").split("+")
        assert f"{b}+{a}=" not in train
    # What is sorted upwards in training is not sorted downwards in a test.
    up = {e.identity for e in draw("sort", "train", 500, TaskConfig(items=2), 0)}
    down = {e.identity for e in draw("down", "test", 500, TaskConfig(items=2), 0)}
    assert not up & down


def test_tasks_from_a_folder(tmp_path):
    config = TaskConfig(folder=str(tmp_path))
    with pytest.raises(DataError, match="no NAME"):
        config.names()
    for name in ("gsm.train", "gsm.test", "other.test"):
        record = {"prompt": f"{name}?", "answer": "42"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(record) + "\n")
    assert config.names() == (("gsm",), ("other",))
    splits = [config.to_learn(name) for name in ("gsm", "other")]
    assert (
        splits == ["train", "validation"] and TaskConfig().to_learn("down") == "train"
    )
    assert draw("gsm", "test", 9, config, 0) == [
        Example("gsm.test?", "42", "gsm.test?")
    ]
    with pytest.raises(DataError, match="validation"):
        draw("gsm", "validation", 9, config, 0)
    (tmp_path / "gsm.test.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(DataError, match="prompt and answer"):
        draw("gsm", "test", 9, config, 0)
    with pytest.raises(ValueError, match="'nothing'"):
        draw("nothing", "test", 1, TaskConfig(), 0)


def test_few_shot_prompts_hold_solved_examples():
    examples = draw("flip", "test", 3, TaskConfig(), 0)
    shots = draw("flip", "train", 5, TaskConfig(), 0)
    for plain, behind in zip(examples, few_shot(examples, shots, 2), strict=True):
        first, second, last = behind.prompt.split("\n")
        assert last == plain.prompt and behind.answer == plain.answer
        for solved in (first, second):
            prompt, answer = solved.split("=")
            assert answer == solve("flip", prompt + "=")
