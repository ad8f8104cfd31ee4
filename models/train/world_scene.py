"""What a scene of the procedural world is, and how scenes are drawn.

A scene is seven named attributes, a layout seed (where hills, clouds and windows
stand) and an anchor of its motion. This module knows the vocabulary, draws scenes
from a numpy generator and says which combinations are held out of training. It
does not know how anything looks: see ``world_render.py``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "time": ("dawn", "day", "sunset", "night"),
    "place": ("sea", "meadow", "desert", "snow", "city"),
    "weather": ("clear", "rain", "snowfall", "fog"),
    "subject": ("ball", "cube", "sailboat", "balloon", "bird", "car", "fish", "lantern"),
    "colour": ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white"),
    "motion": ("left", "right", "bounces", "rises", "circles", "still"),
    "camera": ("still", "pan"),
}
"""Every attribute with its values; the position in the tuple is the value's code."""

NAMES = tuple(ATTRIBUTES)
FPS = 16
BEAT_FRAMES = 12
"""The world keeps time: whatever repeats or travels does so in whole beats or cells a beat.

A beat is a chunk of the bundled model, so a chunk shows one of few moments of a motion instead of any,
and what small networks have to learn by heart stays small."""

BEAT_S = BEAT_FRAMES / FPS

ASPECT = 160 / 96

_ANCHOR_MARGIN = 0.42  # heights between a standing subject and the picture's edge
HELD_OUT: dict[tuple[str, str], frozenset[tuple[str, str]]] = {
    ("colour", "subject"): frozenset(
        {
            ("purple", "ball"),
            ("green", "cube"),
            ("red", "sailboat"),
            ("white", "balloon"),
            ("blue", "bird"),
            ("yellow", "car"),
            ("pink", "fish"),
            ("orange", "lantern"),
        }
    ),
    ("subject", "motion"): frozenset(
        {("car", "rises"), ("bird", "circles"), ("cube", "bounces"), ("fish", "left")}
    ),
    ("place", "weather"): frozenset({("desert", "rain"), ("city", "fog")}),
}
"""Values of two attributes that training never shows together."""

UNSAID = {
    "time": "day",
    "place": "meadow",
    "weather": "clear",
    "subject": "ball",
    "motion": "still",
    "camera": "still",
}
"""What an attribute is that nobody spoke of, where a prompt is to say all there is to see."""

UNSAID_COLOURS = {
    "ball": "red",
    "cube": "blue",
    "sailboat": "white",
    "balloon": "yellow",
    "bird": "red",
    "car": "red",
    "fish": "orange",
    "lantern": "pink",
}
"""The same for the colour, by subject; none of these pairs is held out."""

HeldOut = Literal["exclude", "only", "any"]


@dataclass(frozen=True, slots=True)
class Scene:
    """One scene: seven attribute values and what fixes the rest.

    Attributes:
        time: Time of day.
        place: Landscape.
        weather: Weather.
        subject: Kind of the one subject.
        colour: Colour of the subject.
        motion: How the subject moves within the frame.
        camera: Whether the camera pans (the background moves, the subject's motion
            stays relative to the frame).
        layout_seed: Fixes every free number of the scene, below ``2**63``.
        anchor_x: Horizontal position of the subject at ``anchor_s``, in picture heights.
        anchor_s: Time at which the motion's phase is zero, seconds.
        camera_s: Time at which a camera that pans sets out, seconds.
    """

    time: str
    place: str
    weather: str
    subject: str
    colour: str
    motion: str
    camera: str
    layout_seed: int
    anchor_x: float
    anchor_s: float = 0.0
    camera_s: float = 0.0

    def attributes(self) -> dict[str, str]:
        """Return the seven attribute values by name."""
        return {name: getattr(self, name) for name in NAMES}


@dataclass(frozen=True, slots=True)
class SceneBatch:
    """Scenes as arrays, one row a scene.

    Attributes:
        codes: Attribute codes ``[B, 7]`` int64, columns in the order of ``NAMES``.
        layout_seed: ``[B]`` uint64.
        anchor_x: ``[B]`` float64, picture heights.
        anchor_s: ``[B]`` float64, seconds.
        camera_s: ``[B]`` float64, seconds.
    """

    codes: NDArray[np.int64]
    layout_seed: NDArray[np.uint64]
    anchor_x: NDArray[np.float64]
    anchor_s: NDArray[np.float64]
    camera_s: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[Scene]:
        return (self.scene(row) for row in range(len(self)))

    def column(self, name: str) -> NDArray[np.int64]:
        """Return the codes ``[B]`` of one attribute."""
        return self.codes[:, NAMES.index(name)]

    def rows(self, index: slice | NDArray[np.int64]) -> "SceneBatch":
        """Return the chosen rows as a batch of their own."""
        return SceneBatch(
            self.codes[index],
            self.layout_seed[index],
            self.anchor_x[index],
            self.anchor_s[index],
            self.camera_s[index],
        )

    def scene(self, row: int) -> Scene:
        """Return one row as a ``Scene``."""
        values = {
            name: ATTRIBUTES[name][code]
            for name, code in zip(NAMES, self.codes[row].tolist(), strict=True)
        }
        return Scene(
            **values,
            layout_seed=int(self.layout_seed[row]),
            anchor_x=float(self.anchor_x[row]),
            anchor_s=float(self.anchor_s[row]),
            camera_s=float(self.camera_s[row]),
        )

    def layout(self, count: int) -> NDArray[np.float32]:
        """Return ``[B, count]`` uniform numbers in [0, 1) that belong to each layout seed."""
        counter = np.arange(1, count + 1, dtype=np.uint64)[None, :]
        state = self.layout_seed[:, None] + counter * np.uint64(0x9E3779B97F4A7C15)
        # splitmix64 (Steele, Lea, Flood 2014): a row of numbers without a generator a row.
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
        return ((state >> np.uint64(40)).astype(np.float32)) * np.float32(2.0**-24)

    @staticmethod
    def of(scenes: Sequence[Scene]) -> "SceneBatch":
        """Gather scenes into a batch."""
        codes = [[ATTRIBUTES[n].index(getattr(s, n)) for n in NAMES] for s in scenes]
        return SceneBatch(
            np.array(codes, dtype=np.int64).reshape(len(scenes), len(NAMES)),
            np.array([s.layout_seed for s in scenes], dtype=np.uint64),
            np.array([s.anchor_x for s in scenes], dtype=np.float64),
            np.array([s.anchor_s for s in scenes], dtype=np.float64),
            np.array([s.camera_s for s in scenes], dtype=np.float64),
        )

    @staticmethod
    def joined(batches: Sequence["SceneBatch"]) -> "SceneBatch":
        """Stack batches along the rows."""
        return SceneBatch(
            np.concatenate([b.codes for b in batches]),
            np.concatenate([b.layout_seed for b in batches]),
            np.concatenate([b.anchor_x for b in batches]),
            np.concatenate([b.anchor_s for b in batches]),
            np.concatenate([b.camera_s for b in batches]),
        )


def held_out_rows(codes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Say for each row of ``codes [B, 7]`` whether training never shows it."""
    held = np.zeros(len(codes), dtype=bool)
    for (first, second), pairs in HELD_OUT.items():
        a, b = codes[:, NAMES.index(first)], codes[:, NAMES.index(second)]
        for value_a, value_b in pairs:
            held |= (a == ATTRIBUTES[first].index(value_a)) & (
                b == ATTRIBUTES[second].index(value_b)
            )
    return held


def held_out_pair(scene: Scene) -> tuple[str, str] | None:
    """Return the names of the two attributes whose values training never combines, if any."""
    for (first, second), pairs in HELD_OUT.items():
        if (getattr(scene, first), getattr(scene, second)) in pairs:
            return first, second
    return None


def is_held_out(scene: Scene) -> bool:
    """Say whether this combination of attributes is never drawn for training."""
    return held_out_pair(scene) is not None


def draw_codes(
    generator: np.random.Generator, count: int, held_out: HeldOut = "exclude"
) -> NDArray[np.int64]:
    """Draw ``[count, 7]`` attribute codes, each value of an attribute equally often.

    Rows on the wrong side of the held-out rule are drawn again until none is left.
    """
    sizes = np.array([len(values) for values in ATTRIBUTES.values()])
    codes = np.zeros((count, len(NAMES)), dtype=np.int64)
    todo = np.arange(count)
    while len(todo):
        codes[todo] = (generator.random((len(todo), len(NAMES))) * sizes).astype(np.int64)
        if held_out == "any":
            break
        todo = todo[held_out_rows(codes[todo]) != (held_out == "only")]
    return codes


def draw_scenes(
    generator: np.random.Generator, count: int, held_out: HeldOut = "exclude"
) -> SceneBatch:
    """Draw ``count`` scenes."""
    codes = draw_codes(generator, count, held_out)
    return SceneBatch(
        codes,
        generator.integers(0, 2**63, count, dtype=np.uint64),
        generator.uniform(_ANCHOR_MARGIN, ASPECT - _ANCHOR_MARGIN, count),
        np.zeros(count),
        np.zeros(count),
    )


def as_said(batch: SceneBatch, stated: Sequence[Sequence[str]]) -> SceneBatch:
    """Return the batch with every attribute that its row of ``stated`` does not name as ``UNSAID`` has it."""
    codes = batch.codes.copy()
    for row, names in zip(codes, stated, strict=True):
        for column, name in enumerate(NAMES):
            if name in UNSAID and name not in names:
                row[column] = ATTRIBUTES[name].index(UNSAID[name])
        if "colour" not in names:
            subject = ATTRIBUTES["subject"][row[NAMES.index("subject")]]
            row[NAMES.index("colour")] = ATTRIBUTES["colour"].index(UNSAID_COLOURS[subject])
    return replace(batch, codes=codes)


def sample_scene(seed: int, held_out: HeldOut = "exclude") -> Scene:
    """Return the scene of an integer seed, the same on every machine."""
    return draw_scenes(np.random.default_rng(seed), 1, held_out).scene(0)


def change_some(
    generator: np.random.Generator, batch: SceneBatch, held_out: HeldOut = "exclude"
) -> SceneBatch:
    """Return the batch with one to three attributes of every row changed.

    The layout stays, so what was not changed stays where it is. Anchors are those of
    ``batch``: use ``world_motion.anchored`` to start a changed motion where the old
    one has arrived, and a pan when it is asked for.
    """
    codes = batch.codes.copy()
    sizes = np.array([len(values) for values in ATTRIBUTES.values()])
    todo = np.arange(len(codes))
    while len(todo):
        count = generator.integers(1, 4, len(todo))
        order = generator.random((len(todo), len(NAMES))).argsort(axis=1).argsort(axis=1)
        step = 1 + (generator.random((len(todo), len(NAMES))) * (sizes - 1)).astype(np.int64)
        changed = np.where(order < count[:, None], batch.codes[todo] + step, batch.codes[todo])
        codes[todo] = changed % sizes
        if held_out == "any":
            break
        todo = todo[held_out_rows(codes[todo]) != (held_out == "only")]
    return replace(batch, codes=codes)
