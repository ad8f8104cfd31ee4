"""Less work for the same frames: which savings an engine uses, as one frozen value.

The default is the exact path. Merging the clean pass (``engine/merged.py``) gives the same frames
up to rounding; fewer steps, a shorter window, sparse pages (``kernels/sparse.py``) and FP8 linears
(``kernels/fp8.py``) and attention (``kernels/fp8_attention.py``) change the picture, by how much is
in ``tests/bench/results``. As text a policy is
``steps=2,window=9,merge-clean-pass,keep-pages=3,linear=fp8,attention=fp8``. No tensor and no model
is touched here, so a process without torch can read one.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

from kernels.number_format import NumberFormat
from models.policy import CachePolicy

if TYPE_CHECKING:
    from models.sampler import Sampler

__all__ = ["WorkPolicy", "add_flags", "from_flags"]


@dataclass(frozen=True, slots=True)
class WorkPolicy:
    """What is saved.

    Attributes:
        steps: Denoising steps of streams that ask for no number; None is the model's own.
        window: Latent frames attended, sink and chunk included; None is the model's own.
        sink: Of the window, never evicted; None is the model's own.
        merge_clean_pass: Make a chunk's clean pass inside the next chunk's first pass.
        keep_pages: Older pages each layer attends to, besides sink and chunk; None is all.
        linear: Number format of the blocks' linear layers.
        attention: Number format of self-attention over the window.
    """

    steps: int | None = None
    window: int | None = None
    sink: int | None = None
    merge_clean_pass: bool = False
    keep_pages: int | None = None
    linear: NumberFormat = "plain"
    attention: NumberFormat = "plain"

    def __post_init__(self) -> None:
        for name, value, least in (
            ("steps", self.steps, 1),
            ("window", self.window, 1),
            ("sink", self.sink, 0),
            ("keep-pages", self.keep_pages, 1),
        ):
            if value is not None and value < least:
                raise ValueError(
                    f"policy {name}={value}; it is a whole number of at least {least}; "
                    "leave it out for the exact path"
                )
        for name, format in (("linear", self.linear), ("attention", self.attention)):
            if format not in get_args(NumberFormat):
                raise ValueError(
                    f"policy {name}={format}; known are {', '.join(get_args(NumberFormat))}; choose one"
                )

    @classmethod
    def parse(cls, text: str) -> WorkPolicy:
        """Read a policy's text; an empty one, and ``exact``, is the exact path.

        Raises:
            ValueError: It names something unknown, something twice, or a value that cannot be.
        """
        policy, seen = cls(), set()
        for word in text.split(",") if text not in ("", "exact") else ():
            name, equals, value = word.strip().partition("=")
            if name in seen:
                raise ValueError(f"policy {text!r} names {name} twice; name it once")
            seen.add(name)
            if name == "merge-clean-pass" and not equals:
                policy = replace(policy, merge_clean_pass=True)
            elif name in ("linear", "attention") and equals:
                policy = replace(policy, **{name: value})  # type: ignore[arg-type]
            elif name in ("steps", "window", "sink", "keep-pages") and value.isdigit():
                policy = replace(policy, **{name.replace("-", "_"): int(value)})  # type: ignore[arg-type]
            else:
                raise ValueError(
                    f"policy {text!r} has {word.strip()!r}; allowed are steps=N, window=N, "
                    "sink=N, merge-clean-pass, keep-pages=N, linear=fp8 and attention=fp8, separated by "
                    "commas"
                )
        return policy

    def __str__(self) -> str:
        words = [
            "" if self.steps is None else f"steps={self.steps}",
            "" if self.window is None else f"window={self.window}",
            "" if self.sink is None else f"sink={self.sink}",
            "merge-clean-pass" if self.merge_clean_pass else "",
            "" if self.keep_pages is None else f"keep-pages={self.keep_pages}",
            "" if self.linear == "plain" else f"linear={self.linear}",
            "" if self.attention == "plain" else f"attention={self.attention}",
        ]
        return ",".join(word for word in words if word) or "exact"

    @property
    def changes_picture(self) -> bool:
        """Whether frames differ from the exact path's by more than rounding."""
        return replace(self, merge_clean_pass=False) != WorkPolicy()

    def check_devices(self, devices: int) -> None:
        """See that the policy can be kept by as many devices as share a stream.

        Raises:
            ValueError: It cannot.
        """
        if devices > 1 and replace(self, steps=None, window=None, sink=None) != WorkPolicy():
            raise ValueError(
                f"policy {self} with {devices} tensor devices; they keep steps, window and sink, and "
                "save nothing else; leave the rest out or use one device"
            )

    def check_steps(self, asked: int | None) -> None:
        """See that a command line does not say steps twice, as a number and in its policy.

        Raises:
            ValueError: It does.
        """
        if asked is not None and self.steps is not None:
            raise ValueError(
                f"policy {self} and {asked} steps asked for; steps are said once; leave one out"
            )

    def sampler(self, own: Sampler) -> Sampler:
        """Return a model's sampler under this policy.

        Raises:
            ValueError: The two do not go together.
        """
        if self.steps is None:
            return own
        if self.steps > len(own.steps):
            raise ValueError(
                f"policy {self}: {self.steps} steps; this model takes {len(own.steps)}, and a policy "
                f"saves work; use 1 to {len(own.steps)}, or leave steps out"
            )
        return replace(own, usual_steps=self.steps)

    def cache(self, own: CachePolicy) -> CachePolicy:
        """Return a model's cache policy under this one.

        Raises:
            ValueError: The two do not go together.
        """
        window = own.window_frames if self.window is None else self.window
        sink = own.sink_frames if self.sink is None else self.sink
        if window is not None and window < sink + own.chunk_frames:
            raise ValueError(
                f"policy {self}: a window of {window} latent frames with {sink} sink frames and "
                f"chunks of {own.chunk_frames}; it must hold both, so at least "
                f"{sink + own.chunk_frames}; enlarge the window or give a smaller sink"
            )
        if own.recache == "every_chunk" and window is not None and window <= own.chunk_frames:
            raise ValueError(
                f"policy {self}: a window of {window} latent frames; this model rebuilds its context "
                f"before every chunk of {own.chunk_frames}, and the window must hold at least a frame "
                f"of it, so at least {own.chunk_frames + 1}; enlarge the window"
            )
        if self.merge_clean_pass and own.recache == "every_chunk":
            raise ValueError(
                f"policy {self}: this model rebuilds its context before every chunk and has no "
                "clean pass to merge; leave merge-clean-pass out"
            )
        if self.keep_pages is not None and window is not None:
            older = window - sink - own.chunk_frames
            if self.keep_pages >= older:
                raise ValueError(
                    f"policy {self}: a window of {window} latent frames has {older} besides its "
                    f"{sink} sink frames and the chunk's {own.chunk_frames}, so keeping "
                    f"{self.keep_pages} leaves nothing out; "
                    + (f"keep 1 to {older - 1}" if older > 1 else "leave keep-pages out")
                )
        return replace(own, window_frames=window, sink_frames=sink)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that ``from_flags`` reads."""
    add = parser.add_argument
    add(
        "--policy",
        help="less work, as one text, such as window=9,merge-clean-pass (default: exact)",
    )
    add("--window", type=int, help="latent frames attended; the model's own when absent")
    add("--sink", type=int, help="of the window; the model's own when absent")
    add("--merge-clean-pass", action="store_true", help="in the next chunk's first pass")
    add("--keep-pages", type=int, help="best older pages attended to; all when absent")
    add("--linear", choices=get_args(NumberFormat), default="plain", help="format of linear layers")
    add(
        "--attention",
        choices=get_args(NumberFormat),
        default="plain",
        help="format of self-attention",
    )


def from_flags(options: argparse.Namespace) -> WorkPolicy:
    """Return the policy that a command line asks for.

    Raises:
        ValueError: It cannot be, or it is said both as one text and by single flags.
    """
    single = WorkPolicy(
        window=options.window,
        sink=options.sink,
        merge_clean_pass=options.merge_clean_pass,
        keep_pages=options.keep_pages,
        linear=options.linear,
        attention=options.attention,
    )
    if options.policy is None:
        return single
    if single != WorkPolicy():
        raise ValueError(
            f"--policy {options.policy} and flags that say {single}; a policy is said once; "
            "put all of it into --policy"
        )
    return WorkPolicy.parse(options.policy)
