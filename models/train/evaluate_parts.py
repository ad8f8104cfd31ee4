"""The parts of an evaluation: clips, prompt switches, long streams, the autoencoder.

Each makes its clips, has them judged, writes a contact sheet and returns plain numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from models.loading import load_model
from models.train.classifier import (
    EXCERPT_FRAMES,
    AttributeClassifier,
    Verdict,
    classify,
)
from models.train.classifier_training import accuracy
from models.train.evaluate_clips import Clip, Source, generate
from models.train.evaluate_scores import (
    Figure,
    adherence,
    flicker,
    frechet_figure,
    mean_figure,
    share_of,
    wilson,
)
from models.train.evaluate_sheet import Row, evenly, write_sheet
from models.train.prompts import EvalPrompt
from models.train.world_motion import anchored
from models.train.world_render import render, render_switch, to_uint8
from models.train.world_scene import (
    ATTRIBUTES,
    FPS,
    NAMES,
    Scene,
    SceneBatch,
    draw_scenes,
    sample_scene,
)

FIRST_CHUNK_FRAMES, CHUNK_FRAMES = 9, 12
"""Chunks of the bundled model, pixel frames."""

SEEN_WITHIN = 3 * CHUNK_FRAMES
_STREAM_TIMES_S = (10, 60, 300)
_STREAM_EXCERPT_S = 4
_REFERENCE_SEED = 888_000

Numbers = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bench:
    """What every part needs.

    Attributes:
        classifier: The trained judge.
        device: Where it looks.
        out: Folder for sheets and frames.
        progress: Opens a progress bar for a number of clips under a name.
    """

    classifier: AttributeClassifier
    device: torch.device
    out: Path
    progress: Callable[[int, str], "tqdm[Any]"]

    def accuracy(self, count: int) -> Numbers:
        """Measure the judge on unseen renders."""
        right = accuracy(self.classifier, count, self.device)
        figures: Numbers = {}
        for name, values in right.items():
            low, high = wilson(sum(values), len(values))
            figures[name] = Figure(sum(values) / count, low, high, count).to_json()
        each = np.array(list(right.values()), dtype=np.float64).mean(0)
        figures["mean"] = mean_figure(each.tolist()).to_json()
        return figures

    def look(self, clips: Sequence[NDArray[np.uint8]]) -> Verdict:
        """Judge clips, one verdict each; lengths may differ."""
        parts = [classify(self.classifier, _pixels(frames)) for frames in clips]
        probability = {
            name: np.concatenate([part.probability[name] for part in parts]) for name in NAMES
        }
        return Verdict(probability, np.concatenate([part.features for part in parts]))

    def made(self, prompts: Sequence[EvalPrompt], source: Source, name: str) -> list[Clip]:
        """Generate clips under a progress bar."""
        with self.progress(len(prompts), name) as bar:
            return list(generate(prompts, source, self.out / "frames", done=bar.update))

    def clips(
        self, prompts: Sequence[EvalPrompt], source: Source, name: str, *, detailed: bool
    ) -> tuple[Numbers, Numbers]:
        """Measure adherence; with ``detailed`` also the Fréchet distance and flicker."""
        clips = self.made(prompts, source, f"clips, {name}")
        expected = [clip.prompt.expect for clip in clips]
        verdict = self.look([clip.frames for clip in clips])
        seen = {attribute: verdict.values(attribute) for attribute in NAMES}
        judged: Numbers = {k: v.to_json() for k, v in adherence(expected, seen).items()}
        for label in ("held_out_combination", "held_out_phrasing"):
            some = [i for i, clip in enumerate(clips) if getattr(clip.prompt, label)]
            if len(some) > 1:
                part = adherence(
                    [expected[i] for i in some], {k: [v[i] for i in some] for k, v in seen.items()}
                )
                judged[label] = part["mean"].to_json()
        write_sheet(
            [Row(clip.prompt.prompt, evenly(clip.frames, 7)) for clip in clips[:24]],
            self.out / f"clips-{name}.png",
        )
        if not detailed:
            return judged, {}
        scenes = _matching(expected)
        reference = self._rendered_features(scenes, 0, clips[0].frames.shape[0])
        floor = self._rendered_features(_matching(expected, 1), 1, clips[0].frames.shape[0])
        at_seams, inside, ratio = flicker(
            [clip.frames for clip in clips], FIRST_CHUNK_FRAMES, CHUNK_FRAMES
        )
        extra = {
            "frechet": frechet_figure(verdict.features, reference).to_json(),
            "frechet_of_renders": frechet_figure(floor, reference).to_json(),
            "flicker": {
                "at_seams": round(at_seams, 3),
                "inside_chunks": round(inside, 3),
                "ratio": ratio.to_json(),
            },
        }
        return judged, extra

    def switches(self, prompts: Sequence[EvalPrompt], source: Source) -> Numbers:
        """Measure prompt changes: two seconds of picture that end three chunks after the switch."""
        clips = self.made(prompts, source, "prompt switches")
        found = self._switched(clips)
        rendered = [replace(clip, frames=_rendered_switch(clip)) for clip in clips]
        write_sheet(
            [
                Row(f"{c.prompt.prompt}  >>  {c.prompt.change.prompt}", _around(c))
                for c in clips[:16]
                if c.prompt.change is not None
            ],
            self.out / "switches.png",
        )
        ceiling = self._switched(rendered)
        return found | {f"{name}_of_renders": ceiling[name] for name in ("changed", "kept")}

    def _switched(self, clips: Sequence[Clip]) -> Numbers:
        ends = [_switch_frame(clip) + SEEN_WITHIN for clip in clips]
        soon = [
            clip.frames[end - EXCERPT_FRAMES : end] for clip, end in zip(clips, ends, strict=True)
        ]
        verdicts = {"": self.look(soon), "_later": self.look([c.frames[-32:] for c in clips])}
        figures: Numbers = {}
        for suffix, verdict in verdicts.items():
            seen = {name: verdict.values(name) for name in NAMES}
            right: dict[bool, list[bool]] = {True: [], False: []}
            mixed: dict[bool, list[bool]] = {True: [], False: []}
            for row, clip in enumerate(clips):
                change = clip.prompt.change
                assert change is not None
                for name in NAMES:
                    kind = name in change.changed
                    right[kind].append(seen[name][row] == change.expect[name])
                    mixed[kind] += [
                        seen[name][row] == other.prompt.change.expect[name]
                        for other in clips
                        if other is not clip and other.prompt.change is not None
                    ]
            figures[f"changed{suffix}"] = share_of(right[True], mixed[True]).to_json()
            figures[f"kept{suffix}"] = share_of(right[False], mixed[False]).to_json()
        return figures

    def streams(self, prompts: Sequence[EvalPrompt], source: Source) -> Numbers:
        """Measure long streams: four seconds that end at each time; here one is in memory at once."""
        times = [t for t in _STREAM_TIMES_S if t <= prompts[0].seconds]
        excerpts: dict[int, list[NDArray[np.uint8]]] = {t: [] for t in times}
        changes: dict[str, list[NDArray[np.uint8]]] = {"start": [], "end": []}
        rows = []
        with self.progress(len(prompts), "long streams") as bar:
            made = generate(
                prompts, source, self.out / "frames", group=source.batch, done=bar.update
            )
            for clip in made:
                for t in times:
                    end = min(t * FPS, len(clip.frames))
                    excerpts[t].append(clip.frames[end - _STREAM_EXCERPT_S * FPS : end].copy())
                tail = len(clip.frames) - (len(clip.frames) - FIRST_CHUNK_FRAMES) % CHUNK_FRAMES
                changes["start"].append(clip.frames[FIRST_CHUNK_FRAMES:][: 5 * CHUNK_FRAMES].copy())
                changes["end"].append(clip.frames[tail - 5 * CHUNK_FRAMES : tail].copy())
                moments = np.linspace(FPS, len(clip.frames) - 1, 7).astype(int)
                rows.append(Row(clip.prompt.prompt, clip.frames[moments].copy()))
        write_sheet(rows, self.out / "streams.png")
        expected = [prompt.expect for prompt in prompts]
        judged = {}
        for t, parts in excerpts.items():
            verdict = self.look(parts)
            seen = {name: verdict.values(name) for name in NAMES}
            judged[str(t)] = {k: v.to_json() for k, v in adherence(expected, seen).items()}
        ratios = {
            name: flicker(parts, CHUNK_FRAMES, CHUNK_FRAMES)[2].to_json()
            for name, parts in changes.items()
        }
        return {"at_s": judged, "flicker_ratio": ratios}

    @torch.no_grad()
    def autoencoder(self, model: str, count: int) -> Numbers:
        """Measure what the codec loses on unseen renders, in decibels a clip."""
        loaded = load_model(model, device=self.device, dtype=torch.float32)
        codec, size = loaded.codec, loaded.entry.sizes[0]
        generator = np.random.default_rng(_REFERENCE_SEED + 7)
        frames = FIRST_CHUNK_FRAMES + 2 * CHUNK_FRAMES
        decibels = []
        with self.progress(count, "autoencoder") as bar:
            for _ in range(count):
                start = int(generator.integers(0, 600 * FPS))
                scene = draw_scenes(generator, 1, "any")
                pixels = render(scene, start, frames, size=size, device=self.device)
                latents, _ = codec.encode(pixels, None)
                back, _ = codec.decode(latents, None)
                error = (back.float() - pixels[:, : back.shape[1]]).div(2).pow(2).mean()
                decibels.append(float(-10 * torch.log10(error)))
                bar.update()
        return mean_figure(decibels).to_json()

    def _rendered_features(self, scenes: SceneBatch, take: int, frames: int) -> NDArray[np.float32]:
        starts = np.random.default_rng(_REFERENCE_SEED + take).integers(0, 600 * FPS, len(scenes))
        parts = []
        for row in range(len(scenes)):
            clip = render(
                scenes.rows(slice(row, row + 1)), int(starts[row]), frames, device=self.device
            )
            parts.append(classify(self.classifier, clip).features)
        return np.concatenate(parts)


def _pixels(frames: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(frames).movedim(-1, -3)[None].float().div(127.5).sub(1)


def _matching(expected: Sequence[Any], take: int = 0) -> SceneBatch:
    """Scenes that show what was asked for; what was not asked for is drawn."""
    generator = np.random.default_rng(_REFERENCE_SEED + 31 * take)
    drawn = draw_scenes(generator, len(expected), "any")
    scenes = [
        replace(scene, **{k: v for k, v in wanted.items() if v is not None})
        for scene, wanted in zip(drawn, expected, strict=True)
    ]
    return SceneBatch.of(scenes)


def _switch_frame(clip: Clip) -> int:
    """First frame of the chunk the change belongs to; told by the engine."""
    assert clip.prompt.change is not None
    if clip.switch_frame is None:
        raise ValueError(
            f"{clip.prompt.id}: the engine did not say where the prompt change applied"
        )
    if len(clip.frames) < clip.switch_frame + SEEN_WITHIN:
        raise ValueError(
            f"{clip.prompt.id} ends {len(clip.frames) - clip.switch_frame} frames after its prompt "
            f"change; {SEEN_WITHIN} are needed; give the prompt more seconds"
        )
    return clip.switch_frame


def _around(clip: Clip) -> NDArray[np.uint8]:
    """Frames from just before the switch to three chunks after it."""
    start = _switch_frame(clip)
    return evenly(clip.frames[start - 6 : start + SEEN_WITHIN], 8)


def _rendered_switch(clip: Clip) -> NDArray[np.uint8]:
    """The same prompt change as the world shows it: what a perfect model could score."""
    change = clip.prompt.change
    assert change is not None
    base = sample_scene(clip.prompt.seed)
    before = SceneBatch.of([_as_scene(base, clip.prompt.expect)])
    after = SceneBatch.of([_as_scene(base, change.expect)])
    at = np.array([_switch_frame(clip)])
    pixels = render_switch(before, anchored(before, after, at / FPS), at, 0, len(clip.frames))
    return to_uint8(pixels)[0].numpy()


def _as_scene(base: Scene, wanted: Any) -> Scene:
    return replace(base, **{name: wanted[name] for name in ATTRIBUTES if wanted[name] is not None})
