"""The parity command: all of the golden folder, a folder of other sizes, and what must fail."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.parity.__main__ import GROUPS, PAGED, main, manifest_cases, run_folder
from tests.parity.compare import GATES, judge
from tests.parity.made_folder import make_folder
from tests.parity.reference import Sizes

GOLDEN = Path(__file__).parents[1] / "golden"
LIMIT_BYTES = 8_000_000

PORTRAIT = Sizes(
    dim=60,
    ffn_dim=44,
    num_heads=3,
    num_layers=3,
    text_dim=14,
    text_len=9,
    freq_dim=20,
    latent_hw=(10, 4),
)
IMAGE = Sizes(
    dim=32,
    ffn_dim=20,
    num_heads=1,
    num_layers=2,
    text_dim=6,
    text_len=512,
    freq_dim=12,
    latent_hw=(4, 8),
    in_dim=36,
    clip_dim=18,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    make_folder(folder, PORTRAIT, IMAGE, seed=0)
    return folder


@pytest.fixture
def copy(made, tmp_path):
    shutil.copytree(made, tmp_path / "vectors")
    return tmp_path / "vectors"


def failed(folder):
    return {
        name for name, verdict in run_folder(folder, torch.float32).items() if not verdict.passed
    }


def test_the_golden_folder_passes_in_float32(capsys):
    assert main(["--vectors", str(GOLDEN), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    result = json.loads(lines[-1])
    assert all(entry["pass"] for entry in result.values())
    assert all(entry["max_abs"] <= 5e-5 for entry in result.values())
    for case in manifest_cases(GOLDEN):
        assert any(name == case or name.startswith(f"{case}.") for name in result)


def test_the_golden_folder_passes_in_bfloat16(capsys):
    assert main(["--vectors", str(GOLDEN), "--dtype", "bfloat16"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    # It was bfloat16 indeed.
    assert result["forward/bidirectional"]["max_abs"] > 1e-3


@pytest.mark.parametrize("group", PAGED)
def test_small_pages_give_the_same_numbers_as_whole_frames(group):
    whole = GROUPS[group](GOLDEN, torch.float32)
    small = GROUPS[group](GOLDEN, torch.float32, page_tokens=3)
    assert whole
    for case, pairs in whole.items():
        assert all(torch.equal(small[case][name][0], ours) for name, (ours, _) in pairs.items())


def test_the_size_of_a_page_can_be_asked_for(made, capsys):
    assert main(["--vectors", str(made), "--page-tokens", "2", "--json"]) == 0
    # A latent frame of this folder has ten tokens.
    assert main(["--vectors", str(made), "--page-tokens", "3", "--json"]) == 1
    assert "was not run" in capsys.readouterr().err


def test_the_golden_folder_is_complete_and_small():
    manifest = json.loads((GOLDEN / "manifest.json").read_text())
    groups = {name.split("/")[0] for name in manifest}
    files = {p for g in groups for p in (GOLDEN / g).iterdir()}
    assert {file.relative_to(GOLDEN).as_posix() for file in files} == set(manifest)
    every = [file for file in GOLDEN.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in every) < LIMIT_BYTES
    assert groups >= {"forward", "i2v", "rollouts", "longlive", "krea", "vae", "taehv", "t5"}


def test_other_widths_heads_windows_and_orientation_pass(made):
    """Against an independent float64 network; portrait, three heads of 20, positions over 1024."""
    verdicts = run_folder(made, torch.float32)
    assert {name for name in verdicts if name.startswith("forward")} == {
        "forward/bidirectional",
        "forward/embeddings",
        *(
            f"forward/block_causal.{name}"
            for name in ("block2", "block2_local4", "block3", "iff2", "teacher_forcing")
        ),
    }
    assert {name for name in verdicts if not name.startswith("forward")} == {
        "i2v/forward",
        "krea/recompute",
        "rollouts/local8_sink2_chunk2",
        "rollouts/local3_sink1_framewise",
        "longlive/switch_global_sink",
        "longlive/switch_no_global_sink",
        "longlive/early_switch_global_sink",
        "longlive/two_switches",
        "longlive/relative_rope_sink2",
    }
    assert {n: v.reason for n, v in verdicts.items() if not v.passed} == {}


@pytest.mark.parametrize(
    ("file", "tensor", "case"),
    [
        ("forward/bidirectional", "flow", "forward/bidirectional"),
        ("forward/block_causal", "iff2.flow", "forward/block_causal.iff2"),
        ("forward/block_causal", "teacher_forcing.flow", "forward/block_causal.teacher_forcing"),
        ("forward/embeddings", "rope_start2000", "forward/embeddings"),
        ("forward/embeddings", "sinusoidal", "forward/embeddings"),
        ("i2v/forward", "flow", "i2v/forward"),
        ("rollouts/local8_sink2_chunk2", "chunk05.x0.0", "rollouts/local8_sink2_chunk2"),
        ("rollouts/local8_sink2_chunk2", "chunk03.flow.context", "rollouts/local8_sink2_chunk2"),
        ("rollouts/local3_sink1_framewise", "latents", "rollouts/local3_sink1_framewise"),
        ("rollouts/local3_sink1_framewise", "final_cache.2.k", "rollouts/local3_sink1_framewise"),
        ("longlive/two_switches", "cache_after_recache.frame010.2.v", "longlive/two_switches"),
        ("longlive/relative_rope_sink2", "latents", "longlive/relative_rope_sink2"),
        ("krea/recompute", "ctx4.cache.0.k", "krea/recompute"),
        ("krea/recompute", "ctx2.x0.t1000", "krea/recompute"),
    ],
)
def test_one_wrong_number_fails_its_case_alone(copy, file, tensor, case):
    path = copy / f"{file}.safetensors"
    tensors = load_file(path)
    tensors[tensor].view(-1)[-1] += 1e-3
    save_file(tensors, path)
    manifest = json.loads((copy / "manifest.json").read_text())
    group = {
        name: entry for name, entry in manifest.items() if name.split("/")[0] == case.split("/")[0]
    }
    (copy / "manifest.json").write_text(json.dumps(group))
    assert failed(copy) == {case}


def test_a_promised_case_that_was_not_run_fails(copy, capsys):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["forward/unheard_of.safetensors"] = {}
    manifest["unknown/group.safetensors"] = {}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    (copy / "rollouts" / "local3_sink1_framewise.safetensors").unlink()
    assert main(["--vectors", str(copy), "--json"]) == 1
    out, err = capsys.readouterr()
    result = json.loads(out.splitlines()[-1])
    assert {name for name, entry in result.items() if not entry["pass"]} == {
        "forward/unheard_of",
        "unknown/group",
        "rollouts/local3_sink1_framewise",
    }
    assert result["unknown/group"] == {"max_abs": None, "rel_rms": None, "pass": False}
    assert "unknown/group: was not run" in err


def test_a_broken_group_fails_and_the_others_run(copy, capsys):
    (copy / "i2v" / "weights.safetensors").write_bytes(b"not tensors")
    assert main(["--vectors", str(copy), "--json"]) == 1
    out, err = capsys.readouterr()
    result = json.loads(out.splitlines()[-1])
    assert {name for name, entry in result.items() if not entry["pass"]} == {"i2v/forward"}
    assert "i2v/forward: was not run: " in err


def test_a_folder_without_a_manifest_fails(tmp_path, capsys):
    assert main(["--vectors", str(tmp_path), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {"manifest": {"max_abs": None, "rel_rms": None, "pass": False}}
    assert "no usable manifest.json" in err


@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        (torch.tensor([1.0, float("nan")]), torch.ones(2)),
        (torch.tensor([1.0, float("inf")]), torch.ones(2)),
        (torch.ones(3), torch.ones(2)),
        (torch.ones(0), torch.ones(0)),
        (torch.tensor([1, 3]), torch.tensor([1, 2])),
        (torch.full((2,), 1e-4), torch.zeros(2)),
        (torch.tensor([1.0, 1.0001]), torch.ones(2)),
    ],
)
def test_what_cannot_be_equal_is_not(ours, reference):
    verdict = judge({"x": (ours, reference)}, GATES[torch.float32])
    assert not verdict.passed
    assert json.loads(json.dumps(verdict.as_json(), allow_nan=False))["pass"] is False


def test_noise_levels_are_compared_relatively():
    level = torch.tensor([1000.0, 833.3333, 0.0])
    gate = GATES[torch.float32]
    assert judge({"schedule.timesteps": (level * (1 + 5e-7), level)}, gate).passed
    assert not judge({"schedule.timesteps": (level * (1 + 5e-6), level)}, gate).passed
    assert not judge({"sigmas": (level + 1e-9, level)}, gate).passed


def test_nothing_compared_is_a_failure():
    assert not judge({}, GATES[torch.float32]).passed


def test_equal_tensors_pass():
    ones = torch.ones(2)
    assert judge({"x": (ones, ones), "n": (torch.arange(3),) * 2}, GATES[torch.float32]).passed
    assert judge({"x": (ones + 1e-6, ones)}, GATES[torch.float32]).passed
