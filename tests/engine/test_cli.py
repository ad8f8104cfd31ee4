import json

import numpy as np
import pytest
import torch
from PIL import Image

import engine.cli as cli
import tests.models.damage as damaged
from engine.assemble import assemble
from engine.requests import parse_switch, read_clip, read_picture, read_requests
from kernels.torch_backend import TorchKernels
from models import loading
from tests.fakes import tiny_test_model
from tests.server.small_model import write_small_model


@pytest.fixture
def tiny(monkeypatch):
    """The command line with a model that runs in milliseconds."""
    asked = []

    def load(name, **options):
        asked.append((name, options))
        return tiny_test_model(0)

    monkeypatch.setattr(cli, "load_model", load)
    return asked


def run(capsys, *words):
    status = cli.main(["generate", "--json", "--dtype", "float32", *map(str, words)])
    out, err = capsys.readouterr()
    return status, (json.loads(out.splitlines()[-1]) if status == 0 else err)


def test_one_clip_goes_to_one_file_with_the_frames_asked_for(tiny, tmp_path, capsys):
    status, said = run(
        capsys,
        *("--prompt", "a red ball", "--switch", "1.0=a blue box", "--seconds", 2),
        *("--seed", 3, "--steps", 1, "--out", tmp_path / "clip.npz"),
    )
    assert status == 0
    with np.load(tmp_path / "clip.npz") as saved:
        assert saved["frames"].shape == (32, 32, 64, 3)
        assert saved["frames"].dtype == np.uint8
        assert json.loads(str(saved["about"]))["seed"] == 3
    assert said["frames"] == 32
    assert said["clips"][0]["switches"] == [{"event": "timed:16", "chunk": 2, "frame": 21}]


def test_many_clips_come_from_one_file_of_requests(tiny, tmp_path, capsys):
    lines = [
        {"prompt": "a", "seed": 1, "seconds": 0.5, "group": "x"},
        {"prompt": "b", "name": "second", "switches": [[0.2, "c"]], "steps": 1},
        {"prompt": "a", "seed": 1, "seconds": 0.5, "width": 32, "height": 64, "name": "tall"},
    ]
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    status, said = run(capsys, "--requests", path, "--seconds", 1, "--out", tmp_path / "o")
    assert status == 0
    assert [clip["name"] for clip in said["clips"]] == ["clip00000", "second", "tall"]
    assert said["clips"][0]["group"] == "x"
    shapes = {path.stem: np.load(path)["frames"].shape for path in (tmp_path / "o").iterdir()}
    assert shapes == {
        "clip00000": (8, 32, 64, 3),
        "second": (16, 32, 64, 3),
        "tall": (8, 64, 32, 3),
    }
    assert len(tiny) == 1


def test_clips_that_were_complete_before_a_bad_one_are_on_disk(tiny, tmp_path, capsys):
    lines = [{"prompt": "a"}, {"prompt": "b", "image": "nowhere.png"}, {"prompt": "c"}]
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    status, err = run(capsys, "--requests", path, "--seconds", 0.1, "--out", tmp_path / "o")
    assert status == 2
    assert "nowhere.png" in err
    assert f"1 of 3 clips are complete, in {tmp_path / 'o'}" in err
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["clip00000.npz"]


def test_the_device_s_fastest_kernels_and_room_for_all_steps_reach_the_engine(
    tiny, tmp_path, capsys, monkeypatch
):
    passed = {}
    fastest = TorchKernels()

    def fast(target):
        assert (target.device.type, target.dtype) == ("cpu", torch.float32)
        return fastest

    def noting(model, config, clock, policy, kernels, **options):
        passed.update(kernels=kernels, max_steps=options["max_steps"], batch=config.max_batch)
        return assemble(model, config, clock, policy, kernels, **options)

    monkeypatch.setattr(cli, "select", fast)
    monkeypatch.setattr(cli, "assemble", noting)
    path = tmp_path / "requests.jsonl"
    path.write_text('{"prompt": "a", "steps": 6}\n{"prompt": "b"}')
    words = ("--requests", path, "--seconds", 0.1, "--out", tmp_path / "o")
    status, _ = run(capsys, *words, "--batch", 9)
    assert status == 0
    assert passed["kernels"] is fastest
    assert (passed["max_steps"], passed["batch"]) == (6, 8)


def test_a_policy_of_less_work_reaches_the_engine_and_is_said(tiny, tmp_path, capsys):
    frames = []
    for words in (["--merge-clean-pass"], ["--policy", "window=6,merge-clean-pass"]):
        out = tmp_path / f"{len(words)}.npz"
        status, said = run(capsys, "--prompt", "a", "--steps", 2, "--out", out, *words)
        assert status == 0
        frames.append(np.load(out)["frames"])
    assert said["policy"] == "window=6,merge-clean-pass"
    assert not np.array_equal(*frames)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--window", 4], "it must hold both, so at least 6"),
        (["--policy", "window=9", "--merge-clean-pass"], "a policy is said once"),
        (["--policy", "steps=2", "--steps", 2], "steps are said once; leave one out"),
        (["--policy", "steps=9"], "9 steps; this model takes 4"),
    ],
)
def test_a_policy_that_cannot_be_is_one_sentence(tiny, tmp_path, capsys, words, error):
    status, said = run(capsys, "--prompt", "a", "--out", tmp_path / "x.npz", *words)
    assert status == 2
    assert error in said
    assert said.count("\n") == 1


def test_a_clip_is_the_same_whoever_else_is_made_with_it(tiny, tmp_path, capsys):
    path = tmp_path / "requests.jsonl"
    path.write_text('{"prompt": "a", "seed": 1}\n{"prompt": "b", "seed": 2}\n')
    frames = []
    for batch in (1, 2):
        out = tmp_path / str(batch)
        run(capsys, "--requests", path, "--seconds", 1, "--batch", batch, "--out", out)
        frames.append(np.load(out / "clip00000.npz")["frames"].astype(int))
    assert np.abs(frames[0] - frames[1]).max() <= 1


def test_frames_can_be_written_as_png(tiny, tmp_path, capsys):
    run(capsys, "--prompt", "a", "--seconds", 0.3, "--png", "--out", tmp_path / "o")
    pictures = sorted((tmp_path / "o" / "o").iterdir())
    assert [picture.name for picture in pictures] == [f"{i:05d}.png" for i in range(5)]
    with Image.open(pictures[0]) as picture:
        assert picture.size == (64, 32)


def test_a_clip_starts_from_an_image(tiny, tmp_path, capsys):
    Image.new("RGB", (100, 50), (200, 10, 10)).save(tmp_path / "start.png")
    status, said = run(
        capsys,
        *("--prompt", "a", "--seconds", 1, "--image", tmp_path / "start.png"),
        *("--out", tmp_path / "o.npz"),
    )
    assert status == 0
    assert said["frames"] == 16


def test_a_start_image_is_cut_to_the_size_and_not_squeezed(tmp_path):
    wide = Image.new("RGB", (96, 32), (200, 10, 10))
    wide.paste((10, 10, 200), (0, 0, 16, 32))  # falls off on the left
    wide.save(tmp_path / "wide.png")
    picture = read_picture(tmp_path / "wide.png", (64, 32))
    assert picture.shape == (32, 64, 3)
    assert (picture == (200, 10, 10)).all()


def test_a_clip_goes_on_from_a_clip_and_shows_it_first(tiny, tmp_path, capsys):
    run(capsys, "--prompt", "a", "--seconds", 1, "--out", tmp_path / "first.npz")
    status, said = run(
        capsys,
        *("--prompt", "b", "--switch", "0.5=c", "--seconds", 1, "--steps", 1),
        *("--continue", tmp_path / "first.npz", "--out", tmp_path / "second.npz"),
    )
    assert status == 0
    # Of 16 frames the newest 13 are whole latent frames; 16 new ones follow.
    assert said["frames"] == 13 + 16
    assert said["clips"][0]["switches"][0]["frame"] == 13 + 12


def test_a_clip_may_be_a_folder_of_pictures_or_named_in_requests(tiny, tmp_path, capsys):
    (tmp_path / "clip").mkdir()
    for index in range(6):
        Image.new("RGB", (64, 32), (40 * index, 0, 0)).save(tmp_path / "clip" / f"{index}.png")
    frames = read_clip(tmp_path / "clip", (64, 32))
    assert [int(frame[0, 0, 0]) for frame in frames] == [0, 40, 80, 120, 160, 200]
    line = {"prompt": "a", "continue": str(tmp_path / "clip"), "seconds": 0.5, "name": "on"}
    (tmp_path / "r.jsonl").write_text(json.dumps(line))
    status, said = run(capsys, "--requests", tmp_path / "r.jsonl", "--out", tmp_path / "o")
    assert status == 0
    assert said["frames"] == 5 + 8


def test_codec_and_place_of_the_text_encoder_are_passed_on(tiny, tmp_path, capsys):
    words = ["--prompt", "a", "--seconds", 0.1, "--steps", 1, "--out", tmp_path / "o.npz"]
    run(capsys, *words)
    run(capsys, *words, "--codec", "wan-vae", "--text-device", "offload")
    passed = [(options["codec"], options["text_placement"]) for _, options in tiny]
    assert passed == [(None, "device"), ("wan-vae", "offload")]


@pytest.mark.parametrize("begins", ["--image", "--continue"])
@pytest.mark.parametrize("content", [b"", b"junk", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", None])
def test_a_start_that_cannot_be_read_is_one_line(tiny, tmp_path, capsys, begins, content):
    if content is not None:
        (tmp_path / "start").write_bytes(content)
    status, err = run(
        capsys, "--prompt", "a", begins, tmp_path / "start", "--out", tmp_path / "o.npz"
    )
    assert status == 2
    assert str(tmp_path / "start") in err
    assert err.count("\n") == 1


def test_a_clip_of_another_kind_of_numbers_is_one_line(tiny, tmp_path, capsys):
    np.savez(tmp_path / "clip.npz", frames=np.zeros((5, 32, 64, 3), np.float32))
    status, err = run(
        capsys, "--prompt", "a", "--continue", tmp_path / "clip.npz", "--out", tmp_path / "o.npz"
    )
    assert status == 2
    assert "float32 [5, 32, 64, 3]; give an .npz with frames uint8" in err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--out", "x.npz"], "--prompt or --requests"),
        (["--prompt", "a", "--size", "big", "--out", "x.npz"], "WIDTHxHEIGHT"),
        (["--prompt", "a", "--size", "7x7", "--out", "x.npz"], "64x32"),
        (["--prompt", "a", "--tensor-devices", "0", "--out", "x.npz"], "at least 1"),
        (["--prompt", "a", "--tensor-devices", "3", "--out", "x.npz"], "choose 1 or 2"),
        (["--prompt", "a", "--device", "cuda:99", "--out", "x.npz"], "--device cuda:99; this"),
        (["--prompt", "a", "--device", "gpu", "--out", "x.npz"], "--device gpu; use auto, cpu"),
        (["--prompt", "a", "--batch", "0", "--out", "x.npz"], "--batch 0; it must be at least 1"),
        (["--prompt", "a", "--switch", "soon", "--out", "x.npz"], "SECONDS=PROMPT"),
        (
            ["--prompt", "a", "--image", "a.png", "--continue", "b.npz", "--out", "x.npz"],
            "begins with one",
        ),
        (["--requests", "nowhere.jsonl", "--out", "x"], "nowhere.jsonl"),
        (["--requests", "r", "--steps", "1", "--seed", "0", "--out", "x"], "--seed, --steps; say"),
        (
            ["--requests", "r", "--continue", "c.npz", "--out", "x"],
            "--requests and --continue; say",
        ),
        (["--prompt", "a", "--png", "--out", "x.npz"], "--png and --out x.npz; pictures want"),
    ],
)
def test_mistakes_are_answered_in_one_line(tiny, tmp_path, capsys, monkeypatch, words, complaint):
    monkeypatch.chdir(tmp_path)
    status, err = run(capsys, *words)
    assert status == 2
    assert complaint in err
    assert err.count("\n") == 1


def test_a_bad_line_of_requests_is_named(tmp_path):
    path = tmp_path / "r.jsonl"
    for line in ("{", '{"seed": 1}', '{"prompt": "a", "seed": "x"}', "[1]"):
        path.write_text('{"prompt": "a"}\n' + line)
        with pytest.raises(ValueError, match="line 2"):
            read_requests(path, 1.0)
    path.write_text('{"prompt": "a", "name": "../up"}')
    with pytest.raises(ValueError, match="file name"):
        read_requests(path, 1.0)


def test_a_switch_is_read_as_time_and_prompt():
    assert parse_switch("2.5=a = b") == (2.5, "a = b")
    for text in ("x", "1.0=", "-1=a", "nan=a", "=a"):
        with pytest.raises(ValueError, match="SECONDS=PROMPT"):
            parse_switch(text)


@pytest.mark.parametrize("damage", damaged.ALL, ids=lambda damage: damage.__name__)
def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path, capsys, monkeypatch, damage):
    monkeypatch.setattr(loading, "BUNDLED", tmp_path)
    model, told = damage(write_small_model(tmp_path / "longtake-tiny"))
    status, err = run(
        capsys,
        *("--model", model, "--prompt", "a", "--cache-dir", tmp_path / "cache"),
        *("--out", tmp_path / "out" / "o.npz"),
    )
    assert status == 2
    assert err.startswith("error: ")
    assert told in err
    assert err.count("\n") == 1
    assert not (tmp_path / damaged.RAN).exists()
    assert not (tmp_path / "out").exists()
