"""The evaluator's prompts: drawn once, before training, and kept in a file since.

Three kinds: ``clip`` (one prompt), ``switch`` (the prompt changes at a time) and
``stream`` (minutes of one prompt). The first 64 clips, all of combinations that
training never sees, are the quick suite. Knows nothing of how clips are made.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from models.train.captions import Phrasing, describe
from models.train.world_scene import (
    ATTRIBUTES,
    HELD_OUT,
    NAMES,
    Scene,
    SceneBatch,
    change_some,
    draw_scenes,
    held_out_pair,
)

EVAL_FILE = Path(__file__).parent / "prompts" / "eval_v1.jsonl"
SIZE = (160, 96)
QUICK_CLIPS = 64

_CLIPS, _SWITCHES, _STREAMS = 256, 64, 8
_CLIP_S, _SWITCH_S, _STREAM_S = 4.0, 8.0, 300.0
_SWITCH_TIMES_S = (2.0, 2.5, 3.0)
_STATED = 0.75
_SEED = 20_250_701


@dataclass(frozen=True, slots=True)
class Change:
    """A prompt change.

    Attributes:
        t: When, seconds.
        prompt: The new prompt, whole.
        expect: What should be seen afterwards; None where the prompt does not say.
        changed: The attributes that differ from before.
    """

    t: float
    prompt: str
    expect: Mapping[str, str | None]
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EvalPrompt:
    """One clip to generate and what should be on it.

    Attributes:
        id: Unique name, such as ``clip-007``.
        kind: ``clip``, ``switch`` or ``stream``.
        prompt: Text.
        expect: Attribute values by name; None where the prompt does not say.
        seconds: Length.
        seed: Of the stream's noise; training uses none of them.
        size: Width and height in pixels.
        held_out_combination: Two stated attributes never occur together in training.
        held_out_phrasing: The wording never occurs in training.
        change: The prompt change of a ``switch``.
    """

    id: str
    kind: str
    prompt: str
    expect: Mapping[str, str | None]
    seconds: float
    seed: int
    size: tuple[int, int]
    held_out_combination: bool
    held_out_phrasing: bool
    change: Change | None = None


def load_prompts(path: Path = EVAL_FILE) -> tuple[EvalPrompt, ...]:
    """Read a prompt file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not a prompt; the message names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no prompt file at {path}; the repository has one at {EVAL_FILE}")
    prompts = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            fields = json.loads(line)
            change = fields.pop("change")
            if change is not None:
                change = Change(**{**change, "changed": tuple(change["changed"])})
            prompts.append(
                EvalPrompt(**{**fields, "size": tuple(fields["size"]), "change": change})
            )
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path} line {number} is not a prompt ({error}); "
                "every line is one JSON object with the fields of EvalPrompt"
            ) from error
    return tuple(prompts)


def write_prompts(prompts: tuple[EvalPrompt, ...], path: Path) -> None:
    """Write a prompt file, one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(prompt)) + "\n" for prompt in prompts))


def draw_prompts(seed: int = _SEED) -> tuple[EvalPrompt, ...]:
    """Draw the evaluator's prompts; ``eval_v1.jsonl`` holds those of the default seed."""
    generator = np.random.default_rng(seed)
    unseen = [*_unseen(generator, QUICK_CLIPS), *_unseen(generator, (_CLIPS - QUICK_CLIPS) // 2)]
    known = draw_scenes(generator, _CLIPS - len(unseen))
    scenes = [*unseen[:QUICK_CLIPS], *known, *unseen[QUICK_CLIPS:]]
    clips = [_clip(number, scene, generator) for number, scene in enumerate(scenes)]
    before = draw_scenes(generator, _SWITCHES)
    after = change_some(generator, before)
    switches = [_switch(n, before.scene(n), after, generator) for n in range(_SWITCHES)]
    streams = [
        _prompt(f"stream-{number}", "stream", scene, NAMES, _STREAM_S, 300_000 + number, generator)
        for number, scene in enumerate(draw_scenes(generator, _STREAMS))
    ]
    return (*clips, *switches, *streams)


def _unseen(generator: np.random.Generator, count: int) -> list[Scene]:
    """Draw scenes of held-out combinations, each attribute's values about equally often."""
    pairs = [(names, pair) for names, values in sorted(HELD_OUT.items()) for pair in sorted(values)]
    columns = {
        name: generator.permutation([values[i % len(values)] for i in range(count)])
        for name, values in ATTRIBUTES.items()
    }
    base = draw_scenes(generator, count, "any")
    scenes = []
    for row, number in enumerate(generator.permutation(count).tolist()):
        (first, second), (a, b) = pairs[number % len(pairs)]
        values = {name: str(column[row]) for name, column in columns.items()}
        scenes.append(replace(base.scene(row), **(values | {first: a, second: b})))
    return scenes


def _prompt(
    name: str,
    kind: str,
    scene: Scene,
    stated: tuple[str, ...],
    seconds: float,
    seed: int,
    generator: np.random.Generator,
    phrasing: Phrasing = "train",
) -> EvalPrompt:
    caption = describe(scene.attributes(), stated, generator, phrasing)
    return EvalPrompt(
        id=name,
        kind=kind,
        prompt=caption.text,
        expect=_expected(scene, caption.stated),
        seconds=seconds,
        seed=seed,
        size=SIZE,
        held_out_combination=held_out_pair(scene) is not None,
        held_out_phrasing=phrasing == "held_out",
    )


def _expected(scene: Scene, stated: tuple[str, ...]) -> dict[str, str | None]:
    return {name: getattr(scene, name) if name in stated else None for name in NAMES}


def _clip(number: int, scene: Scene, generator: np.random.Generator) -> EvalPrompt:
    pair = held_out_pair(scene) or ()
    said = generator.random(len(NAMES)) < _STATED
    stated = tuple(
        name
        for name, yes in zip(NAMES, said, strict=True)
        if yes or name == "subject" or name in pair
    )
    phrasing: Phrasing = "held_out" if number % 2 else "train"
    return _prompt(
        f"clip-{number:03d}", "clip", scene, stated, _CLIP_S, 100_000 + number, generator, phrasing
    )


def _switch(
    number: int, before: Scene, changed_batch: SceneBatch, generator: np.random.Generator
) -> EvalPrompt:
    """One or two attributes change; the rest of the prompt says the same in other words."""
    target = changed_batch.scene(number)
    differs = [name for name in NAMES if getattr(before, name) != getattr(target, name)]
    changed = tuple(generator.permutation(differs)[: 1 + number % 2].tolist())
    values = before.attributes() | {name: getattr(target, name) for name in changed}
    first = _prompt(
        f"switch-{number:02d}", "switch", before, NAMES, _SWITCH_S, 200_000 + number, generator
    )
    caption = describe(values, NAMES, generator)
    change = Change(
        t=_SWITCH_TIMES_S[number % len(_SWITCH_TIMES_S)],
        prompt=caption.text,
        expect=dict(values),
        changed=changed,
    )
    return EvalPrompt(
        **{name: getattr(first, name) for name in EvalPrompt.__slots__ if name != "change"},
        change=change,
    )
