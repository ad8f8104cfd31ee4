"""``python -m models.train evaluate``: does the model show what the prompt says?

Clips come from the serving engine, verdicts from the attribute classifier, whose own
accuracy on unseen renders is measured first. Every figure has a 95 % interval and,
where it has a meaning, the score of prompts shuffled between clips. With ``--json`` the
last line on stdout is one JSON object. Scores themselves: ``evaluate_scores.py``.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from models.train import evaluate_parts
from models.train.classifier import CLASSIFIER_FILE, load_classifier
from models.train.evaluate_clips import Source, parse_seeds, with_seeds
from models.train.prompts import EVAL_FILE, QUICK_CLIPS, EvalPrompt, load_prompts
from models.train.run_folder import Clock, TrainingError

PARTS = ("clips", "switch", "streams", "autoencoder")


@dataclass(frozen=True, slots=True)
class Suite:
    """How much is measured.

    Attributes:
        clips: Clips of one prompt, from the first of the file on.
        switches: Clips with a prompt change.
        streams: Long streams.
        stream_s: Their length, seconds.
        judged: Renders that the classifier's accuracy is measured on.
        coded: Clips for the autoencoder.
    """

    clips: int
    switches: int
    streams: int
    stream_s: float
    judged: int
    coded: int


SUITES = {
    "quick": Suite(QUICK_CLIPS, 16, 1, 60.0, 384, 24),
    "full": Suite(256, 64, 8, 300.0, 1024, 64),
}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m models.train evaluate", description=__doc__)
    add = parser.add_argument
    add("--model", default="longtake-tiny", help="name or folder of the model to judge")
    add("--teacher", help="name or folder of the many-step teacher; left out when absent")
    add("--teacher-steps", type=int, default=24)
    add("--steps", default="4,2,1", help="denoising steps to judge; the first is the main one")
    add("--suite", choices=sorted(SUITES), default="quick")
    add("--parts", default=",".join(PARTS), help=f"what to measure, of {', '.join(PARTS)}")
    add("--clips", type=int, help="fewer clips than the suite has")
    add("--switches", type=int, help="fewer clips with a prompt change")
    add("--streams", type=int, help="fewer long streams")
    add("--stream-seconds", type=float, help="length of long streams")
    add("--seeds", help="A:B, noise seeds to use instead of those in the file")
    add("--prompts", type=Path, default=EVAL_FILE)
    add("--classifier", type=Path, default=CLASSIFIER_FILE)
    add("--out", type=Path, default=Path("runs/evaluate"), help="for contact sheets and frames")
    add("--device", default="cpu", help="of the engine and of the classifier")
    add("--dtype", default="auto", help="of the engine: auto, float32 or bfloat16")
    add("--batch", type=int, default=1, help="clips the engine makes at the same time")
    add("--policy", default="exact", help="less work, as python -m engine generate takes it")
    add("--random-weights", action="store_true", help="judge an untrained model")
    add("--quiet", action="store_true", help="no progress bars")
    add("--json", action="store_true", help="end with one line of JSON")
    return parser.parse_args(argv)


def main(argv: Sequence[str], clock: Clock = time.monotonic) -> int:
    """Run the command; returns the exit status."""
    options = parse(argv)
    try:
        result = evaluate(options, clock)
    except (TrainingError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    if options.json:
        print(json.dumps(result))  # noqa: T201
    return 0


def evaluate(options: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    """Measure everything that was asked for.

    Raises:
        TrainingError: weights are missing, or the engine failed.
        ValueError: an option is not as it must be.
    """
    started = clock()
    suite = _suite(options)
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"--parts has {sorted(unknown)}; allowed are {', '.join(PARTS)}")
    steps = _steps(options.steps)
    if any(word.strip().startswith("steps=") for word in options.policy.split(",")):
        raise ValueError(
            f"--policy {options.policy}; the evaluator judges the numbers of --steps; name steps there "
            "and leave them out of the policy"
        )
    prompts = load_prompts(options.prompts)
    if options.seeds is not None:
        prompts = with_seeds(prompts, *parse_seeds(options.seeds))
    device = torch.device(options.device)
    classifier = load_classifier(options.classifier, device)
    source = Source(
        options.model,
        steps[0],
        options.device,
        options.dtype,
        options.batch,
        options.random_weights,
        options.policy,
    )
    bench = evaluate_parts.Bench(
        classifier,
        device,
        options.out,
        lambda total, name: tqdm(total=total, desc=name, unit="clip", disable=options.quiet),
    )
    result: dict[str, Any] = {"suite": options.suite, "model": options.model}
    result["policy"] = options.policy
    result["classifier"] = bench.accuracy(suite.judged)
    _say("classifier on unseen renders", result["classifier"]["mean"])
    clips = _kind(prompts, "clip", suite.clips)
    if "clips" in parts:
        sources = {str(count): replace(source, steps=count) for count in steps}
        if options.teacher:
            teacher = replace(
                source, model=options.teacher, steps=options.teacher_steps, policy="exact"
            )
            sources["teacher"] = teacher
        result["adherence"] = {}
        for name, one in sources.items():
            main_one = name == str(steps[0])
            judged, extra = bench.clips(clips, one, name, detailed=main_one)
            result["adherence"][name] = judged
            result |= extra
            _say(f"adherence, {name}", judged["mean"])
    if "switch" in parts and suite.switches:
        switches = _kind(prompts, "switch", suite.switches)
        result["switch"] = bench.switches(switches, source)
        _say("switch, changed attribute seen", result["switch"]["changed"])
        _say("switch, others kept", result["switch"]["kept"])
    if "streams" in parts and suite.streams:
        streams = _kind(prompts, "stream", suite.streams)
        streams = [replace(prompt, seconds=suite.stream_s) for prompt in streams]
        result["streams"] = bench.streams(streams, source)
        for at, judged in result["streams"]["at_s"].items():
            _say(f"one stream after {at} s", judged["mean"])
    if "autoencoder" in parts and not options.random_weights:
        result["autoencoder_psnr_db"] = bench.autoencoder(options.model, suite.coded)
        _say("autoencoder, dB", result["autoencoder_psnr_db"])
    result["sheets"] = sorted(str(path) for path in options.out.glob("*.png"))
    result["wall_s"] = round(clock() - started, 1)
    return result


def _suite(options: argparse.Namespace) -> Suite:
    suite = SUITES[options.suite]
    given = {
        "clips": options.clips,
        "switches": options.switches,
        "streams": options.streams,
        "stream_s": options.stream_seconds,
    }
    return replace(suite, **{name: value for name, value in given.items() if value is not None})


def _steps(text: str) -> list[int]:
    numbers = text.split(",")
    if not all(number.isdigit() and int(number) > 0 for number in numbers):
        raise ValueError(f"--steps {text!r}; it is a list of positive numbers, such as 4,2,1")
    return [int(number) for number in numbers]


def _kind(prompts: Sequence[EvalPrompt], kind: str, count: int) -> list[EvalPrompt]:
    return [prompt for prompt in prompts if prompt.kind == kind][:count]


def _say(name: str, figure: dict[str, Any]) -> None:
    line = f"{name}: {figure['value']} [{figure['low']}, {figure['high']}], n={figure['n']}"
    if figure["shuffled"] is not None:
        line += f", shuffled prompts {figure['shuffled']}"
    print(line, flush=True)  # noqa: T201
