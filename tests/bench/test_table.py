"""The tables of speed say what the result files say."""

import json
from pathlib import Path

from tests.bench.table import RESULTS, table

ROW = {
    "case": "12-frame window", "kernels": "cudnn", "window_frames": 12, "sink_frames": 3,
    "window": "full", "steps": 4, "batch": 2, "captured": True, "decoder": "taehv",
    "dtype": "bfloat16", "frames_per_s": 41.26, "pass_ms": 38.04, "denoise_tflops": 612.3,
    "share_of_matmul_rate": 0.78, "clean_pass": "merged", "linear": "fp8",
}  # fmt: skip


def test_a_row_of_a_report_is_a_row_of_the_table(tmp_path: Path) -> None:
    report = {"model": "m", "device": "d", "date": "2026-11-20", "threads": None, "rows": [ROW]}
    (tmp_path / "a.json").write_text(json.dumps(report))
    assert table(tmp_path).splitlines()[-1] == (
        "| d (2026-11-20) | m, 4 steps, cudnn, bfloat16, FP8 linears, clean pass merged | 12, 3 sink "
        "| TAEHV | 2 | captured | 41.3 | 38.0 | 612.3 | 78% |"
    )


def test_items_of_the_device_suite_that_failed_are_left_out(tmp_path: Path) -> None:
    suite = {
        "environment": {"took_s": 1.0, "result": {"device": "NVIDIA H200", "date": "2026-11-20"}},
        "taehv": {"took_s": 9.0, "result": {**ROW, "window": "growing from empty"}},
        "fp8": {"took_s": 1.0, "result": {"error": "out of memory"}},
    }
    (tmp_path / "b.json").write_text(json.dumps(suite))
    lines = table(tmp_path).splitlines()
    assert len(lines) == 3
    assert "NVIDIA H200 (2026-11-20)" in lines[2]
    assert "12, 3 sink, growing" in lines[2]


def test_every_result_file_can_be_read() -> None:
    assert table(RESULTS).startswith("| device |")
