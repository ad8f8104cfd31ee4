r"""What every way to do less work costs in adherence: the evaluator's clips, policy by policy.

    python -m tests.bench.policy_adherence --clips 64 \
        --out tests/bench/results/policies-on-evaluator.json

Each policy makes the clips of the same prompts and seeds through ``python -m engine generate``;
the attribute classifier says what they show. The first policy is the one that the others are
compared with, clip by clip. The file is written after every policy, so a run that is cut off keeps
what it measured.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch

from engine.bench import device_name
from engine.work_policy import WorkPolicy
from models.train.classifier import CLASSIFIER_FILE, load_classifier
from models.train.evaluate_clips import Clip, Source, generate
from models.train.evaluate_parts import Bench
from models.train.evaluate_scores import Figure, adherence, difference
from models.train.prompts import NAMES, EvalPrompt, load_prompts
from models.train.run_folder import Clock, TrainingError

POLICIES = (
    "exact",
    "merge-clean-pass",
    "steps=2",
    "steps=1",
    "window=9",
    "window=9,merge-clean-pass",
    "window=6",
    "keep-pages=4",
    "keep-pages=2",
    "linear=fp8",
    "linear=fp8,attention=fp8",
)

Seen = Mapping[str, Sequence[str]]


class MakeClips(Protocol):
    """Makes a clip for every prompt, as ``models.train.evaluate_clips.generate`` does."""

    def __call__(
        self, prompts: Sequence[EvalPrompt], source: Source, folder: Path
    ) -> Iterator[Clip]: ...


def judge(bench: Bench, clips: Sequence[Clip]) -> Seen:
    """What the classifier sees: values of every attribute, one for each clip."""
    verdict = bench.look([clip.frames for clip in clips])
    return {name: verdict.values(name) for name in NAMES}


def measure(
    prompts: Sequence[EvalPrompt],
    source: Source,
    policies: Sequence[str],
    look: Callable[[Sequence[Clip]], Seen],
    clock: Clock,
    make: MakeClips,
) -> Iterator[dict[str, Any]]:
    """One row for each policy, compared with the first one."""
    expected = [prompt.expect for prompt in prompts]
    first: Seen | None = None
    for policy in policies:
        start = clock()
        with TemporaryDirectory() as folder:
            clips = list(make(prompts, replace(source, policy=policy), Path(folder)))
        made_s = clock() - start
        seen = look(clips)
        figures = adherence(expected, seen)
        row: dict[str, Any] = {
            "policy": policy,
            "adherence": figures["mean"].to_json(),
            "attributes": {name: figures[name].to_json() for name in NAMES if name in figures},
        }
        if first is None:
            first = seen
            row["difference"] = Figure(0.0, 0.0, 0.0, len(prompts)).to_json()
        else:
            row["difference"] = difference(expected, seen, first).to_json()
        row["clips_s"] = round(made_s, 1)
        yield row


def parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", default="longtake-tiny")
    add("--random-weights", action="store_true", help="judge an untrained model")
    add("--clips", type=int, default=64, help="of the evaluator's prompts, from the first on")
    add("--seconds", type=float, help="length of a clip; as in the prompts' file when absent")
    add("--steps", type=int, help="denoising steps; the model's own number when absent")
    add("--policies", default=";".join(POLICIES), help="separated by semicolons, the exact first")
    add("--dtype", default="float32", help="of all of them: float32 or bfloat16")
    add("--device", default="cpu")
    add("--batch", type=int, default=1, help="clips made at the same time")
    add("--classifier", type=Path, default=CLASSIFIER_FILE)
    add("--out", type=Path, required=True, help="file to write")
    return parser.parse_args(words)


def main(words: Sequence[str], clock: Clock = time.monotonic, make: MakeClips = generate) -> int:
    options = parse(words)
    prompts = [prompt for prompt in load_prompts() if prompt.kind == "clip"][: options.clips]
    if options.seconds is not None:
        prompts = [replace(prompt, seconds=options.seconds) for prompt in prompts]
    device = torch.device(options.device)
    source = Source(
        options.model,
        options.steps,
        options.device,
        options.dtype,
        options.batch,
        options.random_weights,
    )
    report: dict[str, Any] = {
        "model": options.model,
        "weights": "random" if options.random_weights else "trained",
        "steps": options.steps,
        "dtype": options.dtype,
        "clips": len(prompts),
        "seconds": options.seconds,
        "device": device_name(device),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "policies": [],
    }
    try:
        bench = Bench(load_classifier(options.classifier, device), device, options.out.parent, _bar)
        policies = options.policies.split(";")
        for policy in policies:
            WorkPolicy.parse(policy).check_steps(options.steps)
        for row in measure(prompts, source, policies, lambda c: judge(bench, c), clock, make):
            report["policies"].append(row)
            unfinished = options.out.with_suffix(".tmp")
            unfinished.write_text(json.dumps(report, indent=1) + "\n")
            unfinished.replace(options.out)
            mean, change = row["adherence"], row["difference"]
            print(
                f"{row['policy']}: {mean['value']} [{mean['low']}, {mean['high']}], "
                f"{change['value']:+} [{change['low']:+}, {change['high']:+}]",
                flush=True,
            )
    except (TrainingError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _bar(total: int, name: str) -> Any:
    raise AssertionError("clips are made without a progress bar here")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
