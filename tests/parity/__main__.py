"""Run every case of a folder of reference vectors: ``python -m tests.parity --vectors DIR``.

The last line on stdout is one JSON object, ``{case: {max_abs, rel_rms, pass}}``. What went wrong
with a case is told on stderr. The exit status is 0 when everything passed, 1 when not.
"""

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tests.parity import forward, krea, longlive, rollouts, t5, taehv, vae
from tests.parity.compare import GATES, Pairs, Verdict, judge

Run = Callable[[Path, torch.dtype], Mapping[str, dict[str, tuple[Tensor, Tensor]]]]

GROUPS: dict[str, Run] = {
    "forward": forward.run,
    "i2v": forward.run_i2v,
    "rollouts": rollouts.run,
    "longlive": longlive.run,
    "krea": krea.run,
    "vae": vae.run,
    "taehv": taehv.run,
    "t5": t5.run,
}

# Inputs, not cases.
NO_CASE = ("weights.safetensors",)


def manifest_cases(vectors: Path) -> list[str]:
    """Cases that the folder's manifest promises: every file of tensors that is not weights."""
    files = json.loads((vectors / "manifest.json").read_text())
    return [
        name.removesuffix(".safetensors")
        for name in sorted(files)
        if name.endswith(".safetensors") and Path(name).name not in NO_CASE
    ]


def covers(case: str, promised: str) -> bool:
    """Whether ``case`` is ``promised`` or a part of it, ``promised.part``."""
    return case == promised or case.startswith(promised + ".")


PAGED = ("rollouts", "longlive", "krea")
"""Groups that keep keys and values in pages."""


def run_folder(
    vectors: Path, dtype: torch.dtype, page_tokens: int | None = None
) -> dict[str, Verdict]:
    """Run and judge every case; one that is promised and was not run has failed.

    Args:
        vectors: folder with ``manifest.json``.
        dtype: of weights and activations.
        page_tokens: size of a page, which divides every case's latent frames; None is a whole one.
    """
    promised = manifest_cases(vectors)
    groups = dict.fromkeys(name.split("/")[0] for name in promised)
    verdicts: dict[str, Verdict] = {}
    crashes: dict[str, str] = {}
    for group in groups:
        if group not in GROUPS:
            continue
        try:
            run = GROUPS[group]
            if page_tokens is not None and group in PAGED:
                run = partial(run, page_tokens=page_tokens)
            cases: Mapping[str, Pairs] = run(vectors, dtype)
        except Exception as error:  # a broken file must not hide the other groups
            traceback.print_exc()
            crashes[group] = f"was not run: {error!r}"
            continue
        verdicts.update({name: judge(pairs, GATES[dtype]) for name, pairs in cases.items()})
    for name in promised:
        if not any(covers(case, name) for case in verdicts):
            reason = crashes.get(name.split("/")[0], "was not run")
            verdicts[name] = Verdict(None, None, False, reason)
    return verdicts


def main(argv: list[str] | None = None) -> int:
    """Parse arguments, run, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("--vectors", type=Path, required=True, help="folder with manifest.json")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--page-tokens", type=int, help="tokens of a page (default: a whole frame)")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    arguments = parser.parse_args(argv)
    dtype = getattr(torch, arguments.dtype)
    try:
        verdicts = run_folder(arguments.vectors, dtype, arguments.page_tokens)
    except (OSError, ValueError) as error:
        print(f"no usable manifest.json in {arguments.vectors}: {error}", file=sys.stderr)
        verdicts = {"manifest": Verdict(None, None, False, "unreadable")}
    for name, verdict in verdicts.items():
        if not verdict.passed:
            print(f"{name}: {verdict.reason}", file=sys.stderr)
        elif not arguments.json:
            print(f"{name}: max_abs {verdict.max_abs:.2e}, rel_rms {verdict.rel_rms:.2e}")
    print(json.dumps({name: verdict.as_json() for name, verdict in verdicts.items()}), flush=True)
    return 0 if verdicts and all(verdict.passed for verdict in verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
