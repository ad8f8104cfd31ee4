"""Plain-English captions of scenes: a grammar with synonyms, word orders and omissions.

Deterministic in the generator. Some word orders and some phrases, made of words that
training does see, are held out for tests (``phrasing="held_out"``). Knows nothing of
pictures or tokens, but trains the tokenizer on its own corpus.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from models import tokenizer as tokenizer_module
from models.train.world_scene import ATTRIBUTES, NAMES, Scene, SceneBatch, draw_scenes

Phrasing = Literal["train", "held_out"]

_SUBJECTS = {
    "ball": ("ball", "ball", "sphere", "round ball"),
    "cube": ("cube", "cube", "box", "block"),
    "sailboat": ("sailboat", "sailboat", "sailing boat", "boat"),
    "balloon": ("hot-air balloon", "hot air balloon", "balloon", "balloon"),
    "bird": ("bird", "bird", "little bird", "songbird"),
    "car": ("car", "car", "little car", "automobile"),
    "fish": ("fish", "fish", "little fish", "tropical fish"),
    "lantern": ("lantern", "lantern", "paper lantern", "glowing lantern"),
}
_COLOURS = {
    "red": ("red", "red", "red", "crimson"),
    "orange": ("orange", "orange", "orange", "tangerine"),
    "yellow": ("yellow", "yellow", "yellow", "lemon yellow"),
    "green": ("green", "green", "green", "emerald"),
    "blue": ("blue", "blue", "blue", "cobalt blue"),
    "purple": ("purple", "purple", "purple", "violet"),
    "pink": ("pink", "pink", "pink", "rose pink"),
    "white": ("white", "white", "white", "plain white"),
}
# Finite verb and participle; the third group is held out.
_MOTIONS = {
    "left": (
        ("drifts left", "drifts to the left", "moves left", "glides left", "floats to the left"),
        ("drifting left", "drifting to the left", "moving left", "gliding left"),
        ("moves to the left", "glides to the left"),
    ),
    "right": (
        (
            "drifts right",
            "drifts to the right",
            "moves right",
            "glides right",
            "floats to the right",
        ),
        ("drifting right", "drifting to the right", "moving right", "gliding right"),
        ("moves to the right", "glides to the right"),
    ),
    "bounces": (
        ("bounces", "bounces up and down", "hops", "jumps up and down", "keeps bouncing"),
        ("bouncing", "bouncing up and down", "hopping", "jumping up and down"),
        ("hops up and down", "keeps hopping"),
    ),
    "rises": (
        ("rises", "rises up", "goes up", "climbs", "rises into the sky"),
        ("rising", "rising up", "going up", "climbing"),
        ("climbs into the sky", "goes up into the sky"),
    ),
    "circles": (
        ("circles", "moves in circles", "goes round in circles", "flies in a circle"),
        ("circling", "moving in circles", "going round in circles", "flying in a circle"),
        ("circles round", "flies in circles"),
    ),
    "still": (
        ("stands still", "stays in place", "does not move", "rests", "is motionless"),
        ("standing still", "staying in place", "resting", "motionless"),
        ("stays still", "rests in place"),
    ),
}
_PLACES = {
    "sea": ("on the sea", "over the ocean", "on a calm sea", "above the waves", "by the sea"),
    "meadow": ("in a meadow", "over a green meadow", "in a grassy field", "on the grass"),
    "desert": ("in the desert", "over sand dunes", "in a sandy desert", "on the sand"),
    "snow": ("in a snowy landscape", "on snowy ground", "among snowy mountains", "in the arctic"),
    "city": ("in the city", "in a city", "on a city street", "in front of tall buildings"),
}
_TIMES = {
    "dawn": ("at dawn", "at sunrise", "at daybreak", "in the early morning"),
    "day": ("by day", "during the day", "at noon", "in bright daylight"),
    "sunset": ("at sunset", "at dusk", "in the evening", "in the evening sun"),
    "night": ("at night", "at night", "under the stars", "by moonlight"),
}
# As an adverb, and as a sentence of its own.
_WEATHERS = {
    "clear": (
        ("in clear weather", "under a clear sky", "in fine weather"),
        ("the sky is clear", "the weather is clear", "clear weather"),
    ),
    "rain": (
        ("in the rain", "while it rains", "in heavy rain"),
        ("it is raining", "rain falls", "rainy weather"),
    ),
    "snowfall": (
        ("while it snows", "in falling snow", "during snowfall"),
        ("it is snowing", "snow falls", "snowflakes are falling"),
    ),
    "fog": (
        ("in fog", "in thick fog", "in the mist"),
        ("it is foggy", "fog covers everything", "misty weather"),
    ),
}
_CAMERAS = {
    "still": ("the camera is still", "static camera", "the camera does not move", "fixed shot"),
    "pan": ("the camera pans", "panning camera", "the camera moves along", "panning shot"),
}
_TAGS = {
    "place": {
        "sea": "sea",
        "meadow": "meadow",
        "desert": "desert",
        "snow": "snowy land",
        "city": "city",
    },
    "time": {"dawn": "dawn", "day": "day", "sunset": "sunset", "night": "night"},
    "weather": {"clear": "clear sky", "rain": "rain", "snowfall": "snowfall", "fog": "fog"},
    "camera": {"still": "static camera", "pan": "panning camera"},
}

# A word order: pieces in order; parts that were omitted vanish, with the mark before them.
# f finite clause, p participle clause, l place, t time, w weather adverb, W weather sentence,
# c camera. Marks: a space, comma, semicolon, colon or full stop before the piece.
_ORDERS = (
    (" f", " l", " t", " w", ",c"),
    (" f", " l", " t", ",W", ",c"),
    (" t", ",f", " l", " w", ",c"),
    (" f", " l", " w", " t", ".c"),
    (" l", " t", ":p", ";W", ";c"),
    (" p", " l", ",t", ",w", ",c"),
    (" c", ":f", " l", " t", ",W"),
    (" W", " l", " t", ".f", ".c"),
    (" l", ",f", " t", " w", ";c"),
)
_HELD_OUT_ORDERS = (
    (" t", " l", ",p", ",W", ".c"),
    (" c", ",l", " w", ",f", " t"),
    (" w", ",f", " t", " l", ",c"),
)
_TAG_SHARE = 0.12
_MARKS = {" ": " ", ",": ", ", ";": "; ", ":": ": ", ".": ". "}
_OMITTED = {
    "time": 0.20,
    "place": 0.15,
    "weather": 0.25,
    "subject": 0.05,
    "colour": 0.15,
    "motion": 0.20,
    "camera": 0.45,
}
_CLEAR_OMITTED = 0.6


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption and the attributes it states, in the order of ``NAMES``."""

    text: str
    stated: tuple[str, ...]


def draw_stated(scene: Mapping[str, str], generator: np.random.Generator) -> tuple[str, ...]:
    """Draw which attributes a training caption of a scene states."""
    chance = generator.random(len(NAMES)).tolist()
    stated = []
    for name, luck in zip(NAMES, chance, strict=True):
        plain = name == "weather" and scene[name] == "clear"
        if luck >= (_CLEAR_OMITTED if plain else _OMITTED[name]):
            stated.append(name)
    if "subject" not in stated:
        # Without a subject there is nothing for a colour or a motion to belong to.
        stated = [name for name in stated if name not in ("colour", "motion")]
        if "place" not in stated:
            stated = [*stated, "place"]
    return tuple(name for name in NAMES if name in stated)


def describe(
    scene: Mapping[str, str],
    stated: tuple[str, ...],
    generator: np.random.Generator,
    phrasing: Phrasing = "train",
) -> Caption:
    """Put a scene into words.

    Args:
        scene: Attribute values by name.
        stated: Attributes to mention; colour and motion need the subject.
        generator: Chooses words and order.
        phrasing: ``held_out`` uses word orders and phrases that training never does.

    Returns:
        The caption; its ``stated`` are the attributes that the text gives.
    """
    luck = iter(generator.random(16).tolist())

    def pick(options: tuple[str, ...]) -> str:
        return options[int(next(luck) * len(options))]

    has = set(stated)
    if "subject" not in has:
        has -= {"colour", "motion"}
    if not has:
        raise ValueError(f"nothing to say: stated is {stated}; name a subject or a place")
    kept = tuple(name for name in NAMES if name in has)
    held_out = phrasing == "held_out"
    tagged = next(luck) < _TAG_SHARE and not held_out
    thing = ""
    if "subject" in has:
        thing = pick(_SUBJECTS[scene["subject"]])
        if "colour" in has:
            thing = f"{pick(_COLOURS[scene['colour']])} {thing}"
    if tagged:
        parts = [thing] if thing else []
        if "motion" in has:
            parts.append(pick(_MOTIONS[scene["motion"]][0]))
        rest = (name for name in ("place", "time", "weather", "camera") if name in has)
        parts.extend(_TAGS[name][scene[name]] for name in rest)
        return Caption(", ".join(parts), kept)
    if thing:
        article = "an" if thing[0] in "aeiou" else "a"
        thing = f"{article if next(luck) < 0.85 else 'one'} {thing}"
    pieces = {"f": thing, "p": thing}
    if "motion" in has:
        finite, participle, unseen = _MOTIONS[scene["motion"]]
        pieces["f"] = f"{thing} {pick(unseen if held_out else finite)}"
        pieces["p"] = f"{thing} {pick(participle)}"
    for key, name, table in (
        ("l", "place", _PLACES),
        ("t", "time", _TIMES),
        ("c", "camera", _CAMERAS),
    ):
        pieces[key] = pick(table[scene[name]]) if name in has else ""
    for key, form in (("w", 0), ("W", 1)):
        pieces[key] = pick(_WEATHERS[scene["weather"]][form]) if "weather" in has else ""
    orders = _HELD_OUT_ORDERS if held_out else _ORDERS
    text = ""
    for step in orders[int(next(luck) * len(orders))]:
        piece = pieces[step[1]]
        if piece:
            text += (_MARKS[step[0]] if text else "") + piece
    if next(luck) < 0.35:
        text = text[0].upper() + text[1:]
    if next(luck) < 0.3:
        text += "."
    return Caption(text, kept)


def caption(scene: Scene, generator: np.random.Generator, phrasing: Phrasing = "train") -> Caption:
    """Caption a scene with attributes omitted as in training."""
    values = scene.attributes()
    return describe(values, draw_stated(values, generator), generator, phrasing)


def caption_batch(scenes: SceneBatch, generator: np.random.Generator) -> list[Caption]:
    """Caption every scene of a batch in training phrasing."""
    words = list(ATTRIBUTES.values())
    captions = []
    for codes in scenes.codes.tolist():
        values = {
            name: options[code] for name, options, code in zip(NAMES, words, codes, strict=True)
        }
        captions.append(describe(values, draw_stated(values, generator), generator))
    return captions


def corpus(count: int, seed: int = 0) -> Iterator[str]:
    """Yield ``count`` training captions."""
    generator = np.random.default_rng(seed)
    for start in range(0, count, 256):
        scenes = draw_scenes(generator, min(256, count - start))
        yield from (caption.text for caption in caption_batch(scenes, generator))


def train_tokenizer(
    path: Path, vocabulary: int = 512, seed: int = 0, captions: int = 20_000
) -> None:
    """Train the sentencepiece model of the bundled text encoder and write it to ``path``.

    Args:
        path: File to write, such as ``tokenizer.model``; folders are made.
        vocabulary: Number of pieces, 256 of them bytes for unknown words.
        seed: Of the captions.
        captions: Size of the corpus.
    """
    model = tokenizer_module.train_tokenizer(corpus(captions, seed), vocabulary)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(model)
    part.replace(path)
