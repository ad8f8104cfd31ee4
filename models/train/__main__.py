"""Command line of training: ``python -m models.train STAGE``; see README of this folder for the stages.

Stages: ``tokenizer``, ``autoencoder``, ``text``, ``teacher``, ``initialise``, ``distil``, ``all`` of
them in order, ``unroll`` (instead of the last two, where a prompt says all there is to see),
``decoder`` (the codec's, on the network's own latents), ``adopt`` (start from a published model's
weights), ``classifier`` (for the evaluator), ``export``
(weights and card for the bundled model) and ``evaluate``, which has options of its own.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

# Before torch is loaded: threads that wait for each other must not spin on cores they share.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from models.train.adopt import adopt
from models.train.classifier_training import run_classifier
from models.train.export import export
from models.train.recipes import RECIPES
from models.train.run import Run
from models.train.run_folder import TrainingError
from models.train.stages import ALONE, ORDER, OWN_STREAMS, WITH_STORE, run_stages


def pick_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into a device.

    Raises:
        TrainingError: the device asked for is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise TrainingError(
            f"--device {name} was asked for and this torch ({torch.__version__}) sees no GPU; "
            "use --device cpu, or install a CUDA build of torch"
        )
    return torch.device(name)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line of the training stages."""
    parser = argparse.ArgumentParser(prog="python -m models.train", description=__doc__)
    parser.add_argument(
        "stages",
        nargs="+",
        choices=[*ALONE, *WITH_STORE, "all", "adopt", "classifier", "export"],
    )
    parser.add_argument("--run", type=Path, default=Path("runs/tiny"), help="run folder")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="tiny")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument(
        "--float32",
        action="store_true",
        help="train in float32, for a CPU that multiplies bfloat16 slowly",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument(
        "--budget",
        action="append",
        default=[],
        metavar="STAGE=SECONDS",
        help="end a stage after this much work; may be repeated",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("models/weights/longtake-tiny"), help="export folder"
    )
    parser.add_argument(
        "--student",
        choices=("distil", OWN_STREAMS, "initialise", "teacher"),
        default="distil",
        help="which stage's network export takes",
    )
    parser.add_argument(
        "--model", type=Path, default=Path("models/weights/longtake-tiny"), help="what adopt takes"
    )
    parser.add_argument("--notes", type=Path, help="JSON object of further fields for the card")
    return parser.parse_args(argv)


def read_notes(path: Path | None) -> dict[str, object]:
    """Read the fields that ``--notes`` adds to the card.

    Raises:
        TrainingError: the file is not there or not a JSON object.
    """
    if path is None:
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(
            f"--notes {path}: {error}; it must be a file with one JSON object; correct it"
        ) from error


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit status."""
    if argv and argv[0] == "evaluate":
        from models.train.evaluate import main as evaluate

        return evaluate(list(argv[1:]))
    options = parse(argv)
    # A GPU's float32 products in TF32: ten bits of mantissa, where bfloat16 has seven.
    torch.set_float32_matmul_precision("high")
    try:
        recipe = replace(RECIPES[options.recipe](), bfloat16=not options.float32)
        for text in options.budget:
            stage, _, seconds = text.partition("=")
            try:
                recipe = recipe.within(stage, float(seconds))
            except (AttributeError, TypeError, ValueError) as error:
                raise TrainingError(
                    f"--budget {text!r}; it is STAGE=SECONDS with a stage that trains "
                    "(autoencoder, text, teacher, initialise, distil, unroll, decoder, classifier), such as teacher=600"
                ) from error
        run = Run(
            options.run,
            recipe,
            pick_device(options.device),
            time.monotonic,
            options.compile,
            options.quiet,
        )
        names = [
            name for stage in options.stages for name in (ORDER if stage == "all" else (stage,))
        ]
        if "adopt" in names:
            adopt(run, options.model)
        if "classifier" in names:
            for attribute, share in run_classifier(run).items():
                sys.stdout.write(f"{attribute}: {share:.4f} of unseen renders right\n")
            sys.stdout.write(f"evaluate with it: --classifier {run.finished('classifier')}\n")
        run_stages(run, tuple(name for name in names if name in ALONE or name in WITH_STORE))
        if "export" in names:
            export(run, options.student, options.out, read_notes(options.notes))
    except TrainingError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
