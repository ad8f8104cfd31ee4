"""Make the README's tables of measurements from the files in ``tests/bench/results``.

    python -m tests.bench.table
    python -m tests.bench.table --write README.md

Reads the JSON of ``python -m engine bench``, of the device suite, of ``tests.bench.reference_loop``,
``tests.bench.policies`` and ``tests.bench.policy_adherence``, and prints a Markdown section for
each kind; with ``--write`` it puts them between the marks of a document. A number that is not in a
file is not in a table, and neither is one of fewer than 30 chunks.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
DECODERS = {"none": "none", "Taehv": "TAEHV", "taehv": "TAEHV", "WanVae": "Wan VAE",
            "wan-vae": "Wan VAE"}  # fmt: skip
SPEED = (
    "device",
    "model",
    "window (latent frames)",
    "decoder",
    "streams",
    "graphs",
    "chunks",
    "frames/s",
    "ms a pass",
    "TFLOP/s",
    "share of the dtype's matmul rate",
    "file",
)
VIEWERS = (
    "device",
    "model",
    "streams",
    "steps",
    "chunks",
    "late",
    "least slack, ms",
    "load",
)
LOOPS = (
    "device",
    "model",
    "policy",
    "steps (engine, plain loop)",
    "window (engine, plain loop)",
    "streams, batch",
    "engine, frames/s",
    "plain loop, frames/s",
    "engine / plain loop",
    "of a tick in network and decoder",
    "share of the dtype's matmul rate",
)
VECTORS = ("policy", "as text", "relative RMS", "largest difference")
ADHERENCE = ("policy", "adherence", "change, points", "clips", "made on")

LEAST_CHUNKS = 30
SUITE_MODEL = "1.3B, 832x480"
"""Of the device suite, with random weights."""

Report = dict[str, Any]
Row = tuple[str, ...]


def speed_rows(report: Report) -> list[Row]:
    """Turn a report of the engine's benchmark or of the device suite into rows."""
    if "rows" in report:
        device, model = _device(report), report["model"]
        measured = report["rows"]
        return [_speed(device, model, row, report["file"]) for row in measured if _enough(row)]
    device = _device(report["environment"]["result"])
    measured = [row for row in _results(report) if "pass_ms" in row and _enough(row)]
    return [_speed(device, SUITE_MODEL, row, report["file"]) for row in measured]


def viewer_rows(report: Report) -> list[Row]:
    """Turn the viewers of a report of the device suite into rows."""
    device = _device(report["environment"]["result"])
    return [
        (
            device,
            f"{SUITE_MODEL}, {row['kernels']}",
            str(row["streams"]),
            str(row["steps"]),
            str(row["chunks"]),
            str(row["missed_deadlines"]),
            f"{1000 * row['least_slack_s']:.0f}",
            f"{row['load']:.2f}",
        )
        for row in _results(report)
        if "least_slack_s" in row and "streams" in row
    ]


def _results(report: Report) -> list[Report]:
    """Return what the items of the device suite measured."""
    items = (item["result"] for item in report.values() if isinstance(item, dict))
    return [row for row in items if isinstance(row, dict)]


def _enough(row: Report) -> bool:
    """Whether a row is the median of enough chunks to be shown."""
    return int(row["chunks"]) >= LEAST_CHUNKS


def _speed(device: str, model: str, row: Report, file: str) -> Row:
    window = f"{row['window_frames']}, {row['sink_frames']} sink"
    if row["window"] != "full":
        window += ", growing"
    notes = [str(row["kernels"]), str(row["dtype"])]
    if "FP8" in row["case"] or row.get("linear") == "fp8":
        notes.append("FP8 linears")
    if row.get("attention") == "fp8":
        notes.append("FP8 attention")
    if row.get("clean_pass") == "merged":
        notes.append("clean pass merged")
    if row.get("keep_pages") is not None:
        notes.append(f"best {row['keep_pages']} older pages")
    return (
        device,
        f"{model}, {row['steps']} steps, {', '.join(notes)}",
        window,
        DECODERS.get(row["decoder"], row["decoder"]),
        str(row["batch"]),
        "captured" if row["captured"] else "eager",
        str(row["chunks"]),
        f"{row['frames_per_s']:.1f}",
        f"{row['pass_ms']:.1f}",
        f"{row['denoise_tflops']:.4g}" if "denoise_tflops" in row else "",
        f"{row['share_of_matmul_rate']:.0%}" if "share_of_matmul_rate" in row else "",
        file,
    )


def loop_rows(report: Report) -> list[Row]:
    """Turn a report of the reference loop into a row."""
    guided = ", guided" if report["guided"] else ""
    return [
        (
            _device(report),
            f"{report['model']}, {report['dtype']}",
            report["policy"],
            f"{report['steps']}, {report['plain_steps']}{guided}",
            f"{report['window_frames']}, {report['plain_window_frames']}",
            f"{report['streams']}, {report['batch']}",
            f"{report['engine_frames_per_s']:.1f}",
            f"{report['plain_frames_per_s']:.1f}",
            f"{report['engine_over_plain']:.2f}",
            f"{report['share_of_tick_in_network_and_decoder']:.0%}",
            f"{report['share_of_matmul_rate']:.0%}",
        )
    ]


def vector_rows(report: Report) -> list[Row]:
    """Turn a report of the policies on the reference's vectors into rows."""
    return [
        (row["policy"], row["as_text"], f"{row['relative_rms']:.2g}", f"{row['largest']:.2g}")
        for row in report["policies"]
    ]


def adherence_rows(report: Report) -> list[Row]:
    """Turn a report of the policies on the evaluator into rows; the first one is the exact path."""
    rows = []
    for row in report["policies"]:
        mean, change = row["adherence"], row["difference"]
        points = [f"{100 * change[name]:+.1f}" for name in ("value", "low", "high")]
        rows.append(
            (
                row["policy"],
                f"{mean['value']:.1%} [{mean['low']:.1%}, {mean['high']:.1%}]",
                f"{points[0]} [{points[1]}, {points[2]}]" if rows else "",
                str(report["clips"]),
                f"{_device(report)}, {report['model']}, {report['dtype']}",
            )
        )
    return rows


def _device(report: Report) -> str:
    name = f"{report['device']} ({report['date']})"
    return f"{name}, {report['threads']} threads" if report.get("threads") else name


def _kinds(report: Any) -> tuple[str, ...]:
    """Say which sections a file has rows for."""
    if not isinstance(report, dict):
        return ()
    if "environment" in report:
        return ("gpu", "viewers")
    if "rows" in report:
        return ("cpu",) if report.get("threads") else ("gpu",)
    if "engine_over_plain" in report:
        return ("loop",)
    if "policies" in report:
        return ("vectors",) if "vectors" in report else ("adherence",)
    return ()


SECTIONS: dict[str, tuple[Row, Callable[[Report], list[Row]], Sequence[int], str]] = {
    "cpu": (SPEED, speed_rows, range(6), "No engine on a CPU is in the files yet."),
    "gpu": (SPEED, speed_rows, range(6), "No GPU has been measured yet."),
    "viewers": (VIEWERS, viewer_rows, range(4), "No viewers on a GPU have been measured yet."),
    "loop": (LOOPS, loop_rows, range(6), "No comparison with the plain loop is in the files yet."),
    "vectors": (VECTORS, vector_rows, (0, 1), "No policy is in the files yet."),
    "adherence": (ADHERENCE, adherence_rows, (0, 4), "No policy has been judged yet."),
}
"""By name: the table's head, what makes its rows of a file, the columns that say what was measured, and
what is said without a file."""
DATE = re.compile(r" \(\d{4}-\d\d-\d\d\)")


def section(name: str, folder: Path) -> str:
    """Return one section's Markdown, a table of all its files or a sentence.

    What a later file, by name, measured again replaces what an earlier one said of it.
    """
    head, rows_of, columns, nothing = SECTIONS[name]
    rows: dict[Row, Row] = {}
    for file in sorted(folder.glob("*.json")):
        report = json.loads(file.read_text())
        if name in _kinds(report):
            for row in rows_of(report | {"file": file.stem}):
                rows[tuple(DATE.sub("", row[column]) for column in columns)] = row
    if not rows:
        return nothing
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows.values()])


MARKS = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(\n<!-- end of table -->)", re.DOTALL)


def sections_in(text: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the content of every marked section of a document."""
    for found in MARKS.finditer(text):
        yield found[2], found[3].strip("\n")


def rewritten(text: str, folder: Path) -> str:
    """Return a document with its marked sections as the files make them."""
    return MARKS.sub(lambda m: f"{m[1]}\n{section(m[2], folder)}\n{m[4]}", text)


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--write", type=Path, help="document whose marked sections to replace")
    options = parser.parse_args(words)
    if options.write is not None:
        options.write.write_text(rewritten(options.write.read_text(), options.results))
        return 0
    for name in SECTIONS:
        print(f"{name}:\n\n{section(name, options.results)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
