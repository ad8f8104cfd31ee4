"""Make the README's tables of speed from the files in ``tests/bench/results``.

    python -m tests.bench.table

Reads reports of ``python -m engine bench --json`` and of the device suite and prints Markdown. A
number that is not in a file is not in the table.
"""

import argparse
import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
HEAD = (
    "device",
    "model",
    "window (latent frames)",
    "decoder",
    "streams",
    "graphs",
    "frames/s",
    "ms a pass",
    "TFLOP/s",
    "share of matmul rate",
)
DECODERS = {"none": "none", "Taehv": "TAEHV", "taehv": "TAEHV", "WanVae": "Wan VAE",
            "wan-vae": "Wan VAE"}  # fmt: skip


def rows_of(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Turn one report into rows of the table."""
    if "rows" in report:
        device = f"{report['device']} ({report['date']})"
        if report.get("threads"):
            device += f", {report['threads']} threads"
        return [_row(device, report["model"], row) for row in report["rows"]]
    environment = report["environment"]["result"]
    device = f"{environment['device']} ({environment['date']})"
    results = (item["result"] for item in report.values())
    measured = [row for row in results if isinstance(row, dict) and "pass_ms" in row]
    return [_row(device, "1.3B, 832x480", row) for row in measured]


def _row(device: str, model: str, row: dict[str, Any]) -> tuple[str, ...]:
    window = f"{row['window_frames']}, {row['sink_frames']} sink"
    if row["window"] != "full":
        window += ", growing"
    notes = [str(row["kernels"]), str(row["dtype"])]
    if "FP8" in row["case"] or row.get("linear") == "fp8":
        notes.append("FP8 linears")
    if row.get("clean_pass") == "merged":
        notes.append("clean pass merged")
    return (
        device,
        f"{model}, {row['steps']} steps, {', '.join(notes)}",
        window,
        DECODERS.get(row["decoder"], row["decoder"]),
        str(row["batch"]),
        "captured" if row["captured"] else "eager",
        f"{row['frames_per_s']:.1f}",
        f"{row['pass_ms']:.1f}",
        f"{row['denoise_tflops']:.1f}" if "denoise_tflops" in row else "",
        f"{row['share_of_matmul_rate']:.0%}" if "share_of_matmul_rate" in row else "",
    )


def table(folder: Path) -> str:
    """Return the Markdown table of all reports in ``folder``."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    for file in sorted(folder.glob("*.json")):
        report = json.loads(file.read_text())
        if isinstance(report, dict) and ("rows" in report or "environment" in report):
            lines += ["| " + " | ".join(row) + " |" for row in rows_of(report)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    print(table(parser.parse_args().results))


if __name__ == "__main__":
    main()
