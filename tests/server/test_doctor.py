"""What ``doctor`` says of this machine."""

import shutil
from pathlib import Path

import pytest
import torch

from server.commands import doctor
from server.doctor import examine
from tests.server.small_model import write_small_model


def test_everything_looked_at_has_a_reason_and_what_is_needed_is_here() -> None:
    findings = examine("cpu")
    assert all(finding.detail for finding in findings)
    assert all(finding.good for finding in findings if finding.needed)
    assert {"device", "dtype", "disk", "codec h264", "kernels", "kernels triton"} <= {
        finding.what for finding in findings
    }


def test_the_kernels_that_will_be_used_are_named_with_their_reason() -> None:
    said = {finding.what: finding.detail for finding in examine("cpu", "longtake-tiny")}
    assert said["kernels"].startswith("sdpa will be used on cpu")
    assert "head size 64: scaled_dot_product_attention of torch" in said["kernels"]
    assert "head size 128" in {f.what: f.detail for f in examine("cpu", "longlive-1.3b")}["kernels"]


def test_a_models_folder_is_looked_for_like_its_name(tmp_path: Path) -> None:
    folder = write_small_model(tmp_path / "small")
    said = {finding.what: finding.detail for finding in examine("cpu", str(folder))}
    assert "head size 16" in said["kernels"]
    with pytest.raises(ValueError, match="model 'nothing'"):
        examine("cpu", "nothing")


def test_what_is_used_is_what_the_kernels_are_chosen_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.doctor.choose", lambda target: "torch")
    said = {finding.what: finding.detail for finding in examine("cpu")}
    assert said["kernels"].startswith("torch will be used")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_one_line_and_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert doctor(["--device", "cuda"]) == 1
    assert "no  device: " in capsys.readouterr().out


def test_an_unknown_model_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(["--model", "nothing"]) == 2
    assert "error: model 'nothing'; known are" in capsys.readouterr().err


def test_the_disk_is_the_one_of_the_data_folder_also_before_it_is_made(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    free = {tmp_path: 7 * 10**9}
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        "server.doctor.shutil.disk_usage",
        lambda path: usage._replace(free=free.get(Path(path), 0)),
    )
    doctor(["--device", "cpu", "--data-dir", str(tmp_path / "not" / "yet")])
    assert f"ok  disk: 7 GB free for {tmp_path / 'not' / 'yet'}\n" in capsys.readouterr().out


def test_the_command_prints_every_finding(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(["--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(examine("cpu"))
    assert all(line.startswith(("ok  ", "no  ")) for line in lines)
