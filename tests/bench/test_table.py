"""The tables of measurements say what the result files say."""

import json
from pathlib import Path

import pytest

from tests.bench.table import RESULTS, SECTIONS, main, rewritten, section, sections_in
from tests.documents import read

ROW = {
    "case": "12-frame window", "kernels": "cudnn", "window_frames": 12, "sink_frames": 3,
    "window": "full", "steps": 4, "batch": 2, "captured": True, "decoder": "taehv",
    "dtype": "bfloat16", "chunks": 30, "frames_per_s": 41.26, "pass_ms": 38.04, "denoise_tflops": 612.3,
    "share_of_matmul_rate": 0.78, "clean_pass": "merged", "linear": "fp8", "keep_pages": 4,
}  # fmt: skip
BENCH = {"model": "m", "device": "d", "date": "2026-11-20", "threads": None, "rows": [ROW]}
LOOP = {
    "model": "m", "device": "d", "date": "2026-11-20", "threads": 2, "policy": "window=9",
    "guided": True, "steps": 4, "plain_steps": 4, "dtype": "float32", "window_frames": 9, "plain_window_frames": 12,
    "streams": 4, "batch": 2, "engine_frames_per_s": 26.04, "plain_frames_per_s": 20.0,
    "engine_over_plain": 1.302, "share_of_tick_in_network_and_decoder": 0.966,
    "share_of_matmul_rate": 0.274,
}  # fmt: skip
SUITE = {
    "environment": {"took_s": 1.0, "result": {"device": "v", "date": "2026-11-20"}},
    "two": {"took_s": 1.0, "result": {
        "streams": 2, "steps": 4, "chunks": 34, "missed_deadlines": 0, "least_slack_s": 0.113,
        "load": 0.718, "kernels": "triton",
    }},
}  # fmt: skip
FIGURE = {"value": 0.9, "low": 0.875, "high": 0.925, "n": 64, "shuffled": 0.3}
CHANGE = {"value": -0.0051, "low": -0.02, "high": 0.01, "n": 64, "shuffled": None}
JUDGED = {
    "model": "m", "device": "d", "date": "2026-11-20", "dtype": "float32", "clips": 64,
    "policies": [
        {"policy": "exact", "adherence": FIGURE, "difference": CHANGE},
        {"policy": "window=9", "adherence": FIGURE, "difference": CHANGE},
    ],
}  # fmt: skip
EXPECTED = {
    "gpu": "| d (2026-11-20) | m, 4 steps, cudnn, bfloat16, FP8 linears, clean pass merged, best 4 "
    "older pages | 12, 3 sink | TAEHV | 2 | captured | 30 | 41.3 | 38.0 | 612.3 | 78% | 0 |",
    "cpu": "| d (2026-11-20), 2 threads | m, 4 steps, cudnn, bfloat16, FP8 linears, clean pass "
    "merged, best 4 older pages | 12, 3 sink | TAEHV | 2 | captured | 30 | 41.3 | 38.0 | 612.3 | 78% | 1 |",
    "viewers": "| v (2026-11-20) | 1.3B, 832x480, triton | 2 | 4 | 34 | 0 | 113 | 0.72 |",
    "loop": "| d (2026-11-20), 2 threads | m, float32 | window=9 | 4, 4, guided | 9, 12 | 4, 2 | 26.0 "
    "| 20.0 | 1.30 | 97% | 27% |",
    "vectors": "| shorter | window=5 | 0.027 | 0.23 |",
    "adherence": "| window=9 | 90.0% [87.5%, 92.5%] | -0.5 [-2.0, +1.0] | 64 | d (2026-11-20), m, "
    "float32 |",
}
VECTORS = {
    "vectors": "v", "date": "2026-11-20",
    "policies": [
        {"policy": "shorter", "as_text": "window=5", "relative_rms": 0.0274, "largest": 0.233}
    ],
}  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Path:
    files = (BENCH, {**BENCH, "threads": 2}, LOOP, JUDGED, VECTORS, SUITE)
    for number, report in enumerate(files):
        (tmp_path / f"{number}.json").write_text(json.dumps(report))
    return tmp_path


@pytest.mark.parametrize("name", SECTIONS)
def test_the_last_row_of_a_report_is_the_last_row_of_its_table(name: str, results: Path) -> None:
    assert section(name, results).splitlines()[-1] == EXPECTED[name]


def test_the_exact_path_has_no_change(results: Path) -> None:
    exact = section("adherence", results).splitlines()[2]
    assert exact == "| exact | 90.0% [87.5%, 92.5%] |  | 64 | d (2026-11-20), m, float32 |"


@pytest.mark.parametrize("name", SECTIONS)
def test_without_a_file_a_sentence_says_so(name: str, tmp_path: Path) -> None:
    assert section(name, tmp_path).endswith("yet.")


def test_items_of_the_device_suite_that_failed_are_left_out(tmp_path: Path) -> None:
    suite = {
        "environment": {"took_s": 1.0, "result": {"device": "NVIDIA H200", "date": "2026-11-20"}},
        "taehv": {"took_s": 9.0, "result": {**ROW, "window": "growing from empty"}},
        "fp8": {"took_s": 1.0, "result": {"error": "out of memory"}},
    }
    (tmp_path / "b.json").write_text(json.dumps(suite))
    lines = section("gpu", tmp_path).splitlines()
    assert len(lines) == 3
    assert "NVIDIA H200 (2026-11-20)" in lines[2]
    assert "12, 3 sink, growing" in lines[2]


def test_what_is_measured_again_replaces_the_older_row(tmp_path: Path) -> None:
    other = {**ROW, "batch": 4}
    again = {**BENCH, "date": "2026-11-21", "rows": [{**ROW, "frames_per_s": 50.0}]}
    (tmp_path / "d-1.json").write_text(json.dumps({**BENCH, "rows": [ROW, other]}))
    (tmp_path / "d-2.json").write_text(json.dumps(again))
    first, second = section("gpu", tmp_path).splitlines()[2:]
    assert "(2026-11-21)" in first
    assert "| 50.0 |" in first
    assert "| TAEHV | 4 |" in second


def test_a_row_of_too_few_chunks_is_not_shown(tmp_path: Path) -> None:
    again = {**BENCH, "rows": [{**ROW, "chunks": 15, "frames_per_s": 50.0}]}
    (tmp_path / "d-1.json").write_text(json.dumps({**BENCH, "rows": [ROW]}))
    (tmp_path / "d-2.json").write_text(json.dumps(again))
    assert [line.count("| 41.3 |") for line in section("gpu", tmp_path).splitlines()[2:]] == [1]


def test_a_policy_judged_on_another_model_is_a_row_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(JUDGED))
    (tmp_path / "b.json").write_text(json.dumps({**JUDGED, "model": "n"}))
    assert len(section("adherence", tmp_path).splitlines()) == 2 + 4


def test_a_document_s_sections_are_replaced_and_the_rest_stays(results: Path) -> None:
    before = "a\n<!-- table: loop -->\n\nold\n\n<!-- end of table -->\nb\n"
    after = rewritten(before, results)
    assert dict(sections_in(after)) == {"loop": section("loop", results)}
    assert (after[:2], after[-3:]) == ("a\n", "\nb\n")
    assert rewritten(after, results) == after


def test_the_readme_s_tables_are_those_of_the_files() -> None:
    found = dict(sections_in(read("README.md").text))
    assert set(found) == set(SECTIONS)
    for name, content in found.items():
        assert content == section(name, RESULTS), (
            "run python -m tests.bench.table --write README.md"
        )


def test_every_section_is_printed(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(results)]) == 0
    out = capsys.readouterr().out
    assert all(row in out for row in EXPECTED.values())
