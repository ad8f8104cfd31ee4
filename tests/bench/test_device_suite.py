"""The device suite's bookkeeping, without a device: what is kept, skipped, and gone on with."""

import json
import re
import time
from pathlib import Path

import pytest

from tests.bench import device_suite
from tests.bench.device_suite import GPU_TESTS, ROOT, Suite, results_in


def suite(out: Path, budget_s: float = 60.0) -> Suite:
    return Suite(out, time.monotonic(), budget_s, None)


def test_an_item_that_was_run_is_not_run_again(tmp_path: Path) -> None:
    assert suite(tmp_path).item("a", 0, lambda: {"value": 1}, 9) == {"value": 1}
    assert suite(tmp_path).item("a", 0, lambda: {"value": 2}, 9) == {"value": 1}


def test_an_item_that_fails_has_its_traceback_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_suite, "spoiled", lambda: False)
    first = suite(tmp_path)
    assert first.item("a", 0, lambda: 1 // 0, 9) is None
    assert first.item("b", 0, lambda: {"value": 1}, 9) == {"value": 1}
    assert "ZeroDivisionError" in results_in(tmp_path)["a"]["result"]["error"]
    assert suite(tmp_path).item("a", 0, lambda: {"value": 1}, 9) is None


def test_an_item_runs_no_longer_than_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_suite, "spoiled", lambda: False)
    assert suite(tmp_path).item("a", 0, lambda: time.sleep(30), 0.1) is None
    assert "stopped after 0 s" in results_in(tmp_path)["a"]["result"]["error"]


def test_an_item_that_does_not_fit_is_skipped(tmp_path: Path) -> None:
    assert suite(tmp_path, budget_s=1.0).item("a", 2, lambda: {"value": 1}, 9) is None
    assert "needed" in results_in(tmp_path)["a"]["result"]["skipped"]


def test_a_process_that_ends_in_an_item_leaves_a_word_of_it(tmp_path: Path) -> None:
    seen: list[str] = []
    path = tmp_path / "device_suite.json"
    suite(tmp_path).item("a", 0, lambda: seen.append(path.read_text()), 9)
    assert json.loads(seen[0])["a"]["result"] == {"error": "its process ended"}


def test_every_test_that_is_marked_for_a_gpu_is_run() -> None:
    marked = [
        path
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"^@(pytest\.mark\.)?gpu$", path.read_text(), re.MULTILINE)
    ]
    assert len(marked) >= 5
    for path in marked:
        assert any(path.is_relative_to(ROOT / place) for place in GPU_TESTS), path
