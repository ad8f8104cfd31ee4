"""A training run on disk: what every stage writes, and how a stage goes on after its machine went away.

A run folder holds one subfolder a stage: ``state.pt`` (everything a resume needs), ``log.jsonl``
(one line a report) and ``curve.png``. Files appear whole or not at all: they are written beside their
place, synced and renamed. Knows nothing of networks or losses.
"""

import errno
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

Clock = Callable[[], float]


class TrainingError(Exception):
    """A mistake or a shortage the person who started the training can mend; the text says how."""


@dataclass(frozen=True, slots=True)
class StageLimits:
    """When a stage is done: after ``steps``, or after ``budget_s`` seconds of work if that is sooner."""

    steps: int
    budget_s: float | None = None
    save_every_s: float = 120.0


class Keepable(Protocol):
    """A network, an average or an optimiser: what a checkpoint holds a state of."""

    def state_dict(self) -> Any:
        """The state."""
        ...

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Take back what ``state_dict`` gave."""
        ...


@dataclass(frozen=True, slots=True)
class Tick:
    """One step to take: its index, and ``progress`` in [0, 1] that schedules follow."""

    step: int
    progress: float


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary neighbour of ``path``, then put it in place in one rename.

    Raises:
        TrainingError: the disk is full or the folder cannot be written; ``path`` keeps its old content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError of its archive writer.
        full = isinstance(error, RuntimeError) or error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full or the write was cut short" if full else str(error)
        raise TrainingError(
            f"could not write {path}: {reason}; the last good file was kept; "
            "free some space or choose another --run folder, then start again: it resumes"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def save_weights(path: Path, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Write ``tensors`` as one safetensors file, floating ones in ``dtype``, whole or not at all."""
    ready = {
        name: (t.detach().to("cpu", dtype) if t.is_floating_point() else t.detach().cpu())
        .contiguous()
        .clone()
        for name, t in tensors.items()
    }
    write_whole(path, lambda temporary: save_file(ready, str(temporary)))


class Stage:
    """One resumable stage of a run: counts steps, shows progress, logs, and keeps checkpoints.

    Args:
        folder: The run folder.
        name: The stage's name; its files go to ``folder / name``.
        limits: When it ends.
        clock: Monotonic seconds.
        quiet: Show no progress bar.
    """

    def __init__(
        self, folder: Path, name: str, limits: StageLimits, clock: Clock, *, quiet: bool = False
    ) -> None:
        self.folder = folder / name
        self.name = name
        self.limits = limits
        self.step = 0
        self._clock = clock
        self._spent_s = 0.0
        self._quiet = quiet
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def state_file(self) -> Path:
        """The checkpoint this stage resumes from."""
        return self.folder / "state.pt"

    def resume(self, device: torch.device) -> dict[str, Any] | None:
        """Read the last checkpoint, or return None when the stage starts afresh.

        Raises:
            TrainingError: the checkpoint is there but cannot be read.
        """
        if not self.state_file.exists():
            return None
        try:
            state = torch.load(self.state_file, map_location=device, weights_only=True)
            self.step, self._spent_s = int(state["step"]), float(state["spent_s"])
        except Exception as error:
            raise TrainingError(
                f"{self.state_file} cannot be resumed from ({error}); "
                "it must be a checkpoint this command wrote; move it away to start the stage afresh"
            ) from error
        return dict(state["payload"])

    def restore(self, device: torch.device, **parts: Keepable) -> Callable[[], dict[str, Any]]:
        """Give ``parts``, in this order, what the last checkpoint has of them by name, if there is one.

        Returns:
            What makes the payload of the next one: give it to ``ticks``.

        Raises:
            TrainingError: the checkpoint is there but cannot be read.
        """
        if (saved := self.resume(device)) is not None:
            for name, part in parts.items():
                part.load_state_dict(saved[name])
        return lambda: {name: part.state_dict() for name, part in parts.items()}

    def save(self, payload: dict[str, Any]) -> None:
        """Write a checkpoint now."""
        state = {"step": self.step, "spent_s": self._spent_s, "payload": payload}
        write_whole(self.state_file, lambda path: torch.save(state, path))

    def ticks(self, payload: Callable[[], dict[str, Any]]) -> Iterator[Tick]:
        """Yield the steps that are left; saves ``payload()`` now and then and at the end."""
        last = self._clock()
        since_save_s = 0.0
        with tqdm(
            total=self.limits.steps, initial=self.step, desc=self.name, disable=self._quiet
        ) as bar:
            while (progress := self._progress()) < 1.0:
                yield Tick(self.step, progress)
                now = self._clock()
                self._spent_s += now - last
                since_save_s += now - last
                last = now
                self.step += 1
                bar.update()
                if since_save_s >= self.limits.save_every_s:
                    self.save(payload())
                    since_save_s = 0.0
        self.save(payload())

    def report(self, **values: float) -> None:
        """Append one line of figures to the stage's log."""
        line = {"step": self.step, "spent_s": round(self._spent_s, 1)}
        line |= {key: round(float(value), 6) for key, value in values.items()}
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def draw_curve(self, keys: tuple[str, ...]) -> None:
        """Draw the logged ``keys`` over steps into ``curve.png``; silent when nothing was logged."""
        log = self.folder / "log.jsonl"
        if not log.exists():
            return
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt

        rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        figure, axes = plt.subplots(figsize=(7, 4))
        for key in keys:
            points = [(row["step"], row[key]) for row in rows if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=key)
        axes.set_xlabel("step")
        axes.set_yscale("log")
        axes.legend()
        axes.set_title(self.name)
        figure.tight_layout()
        figure.savefig(self.folder / "curve.png", dpi=110)
        plt.close(figure)

    def _progress(self) -> float:
        by_steps = self.step / self.limits.steps
        if self.limits.budget_s is None:
            return by_steps
        return max(by_steps, self._spent_s / self.limits.budget_s)
