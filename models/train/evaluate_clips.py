"""Clips to judge, made through the serving engine: ``python -m engine generate`` as a child.

Training does not import the engine; what is scored is what a user gets. Knows nothing
of attributes.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.train.prompts import EvalPrompt
from models.train.run_folder import TrainingError


@dataclass(frozen=True, slots=True)
class Source:
    """Which model makes the clips, and how.

    Attributes:
        model: Name or folder, as ``python -m engine generate --model`` takes it.
        steps: Denoising steps of a chunk; None is the model's or the policy's number.
        device: Device of the engine.
        dtype: Its number format, or ``auto``.
        batch: Clips made at the same time.
        random_weights: Draw weights instead of reading them.
        policy: How the engine saves work, as its ``--policy`` takes it.
    """

    model: str
    steps: int | None = None
    device: str = "cpu"
    dtype: str = "auto"
    batch: int = 1
    random_weights: bool = False
    policy: str = "exact"


@dataclass(frozen=True, slots=True)
class Clip:
    """A generated clip.

    Attributes:
        prompt: What was asked for.
        frames: uint8 ``[T, H, W, 3]``.
        switch_frame: First frame of the chunk that applied the prompt change, if there is one.
    """

    prompt: EvalPrompt
    frames: NDArray[np.uint8]
    switch_frame: int | None


def with_seeds(prompts: Sequence[EvalPrompt], first: int, last: int) -> tuple[EvalPrompt, ...]:
    """Give the prompts the seeds ``first`` to ``last - 1``, over and over."""
    count = last - first
    return tuple(replace(p, seed=first + i % count) for i, p in enumerate(prompts))


def parse_seeds(text: str) -> tuple[int, int]:
    """Read ``A:B``.

    Raises:
        ValueError: it has not that form, or names no seed.
    """
    first, colon, last = text.partition(":")
    if not (colon and first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise ValueError(f"--seeds {text!r}; it is A:B with 0 <= A < B, such as 500000:500256")
    return int(first), int(last)


def generate(
    prompts: Sequence[EvalPrompt],
    source: Source,
    folder: Path,
    *,
    group: int = 16,
    done: Callable[[int], object] = lambda count: None,
) -> Iterator[Clip]:
    """Make a clip for every prompt, in groups, one child process a group.

    Args:
        prompts: What to make.
        source: The model.
        folder: For requests and frames; a group's frames are removed once they are read.
        group: Clips a child makes.
        done: Told the number of clips of a group when it is made.

    Raises:
        TrainingError: the engine refused or failed; the message has its last words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for begin in range(0, len(prompts), group):
        part = prompts[begin : begin + group]
        said = _run(part, source, folder)
        done(len(part))
        about = {clip["name"]: clip for clip in said["clips"]}
        for prompt in part:
            clip = about[prompt.id]
            path = Path(clip["path"])
            with np.load(path) as held:
                frames = held["frames"]
            path.unlink()
            applied = [int(switch["frame"]) for switch in clip["switches"]]
            yield Clip(prompt, frames, applied[0] if prompt.change and applied else None)


def request(prompt: EvalPrompt, steps: int | None) -> dict[str, object]:
    """Say a prompt in the engine's terms: one line of its requests file.

    The size is the model's own: the frozen one is what the prompts were written for, and the
    classifier looks at any.
    """
    line: dict[str, object] = {
        "name": prompt.id,
        "prompt": prompt.prompt,
        "seconds": prompt.seconds,
        "seed": prompt.seed,
    }
    if steps is not None:
        line["steps"] = steps
    if prompt.change is not None:
        line["switches"] = [[prompt.change.t, prompt.change.prompt]]
    return line


def _run(prompts: Sequence[EvalPrompt], source: Source, folder: Path) -> dict[str, list[dict]]:  # type: ignore[type-arg]
    requests = folder / "requests.jsonl"
    requests.write_text("".join(json.dumps(request(p, source.steps)) + "\n" for p in prompts))
    command = [sys.executable, "-m", "engine", "generate", "--json"]
    command += ["--model", source.model, "--requests", str(requests), "--out", str(folder)]
    command += ["--device", source.device, "--dtype", source.dtype, "--batch", str(source.batch)]
    command += ["--policy", source.policy]
    if source.random_weights:
        command.append("--random-weights")
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = child.stdout.strip().splitlines()
    if child.returncode != 0 or not lines:
        last = (child.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise TrainingError(
            f"the engine could not make clips with {source.model!r} (exit {child.returncode}): "
            f"{last.removeprefix('error: ')}; to see all of it run: {' '.join(command)}"
        )
    return json.loads(lines[-1])
