"""The engine that settings ask for."""

from pathlib import Path

import pytest

from engine.merged import MergingGenerator
from server.config import Settings
from server.worker.build import Built, CannotServe, build
from tests.server.small_model import write_small_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("models") / "small")


def built(folder: Path, policy: str) -> Built:
    settings = Settings(
        model=str(folder), device="cpu", dtype="float32", data_dir=folder / "data", policy=policy
    )
    return build(settings, lambda line: None)


def test_the_policy_reaches_the_engine(folder: Path) -> None:
    exact, less = built(folder, ""), built(folder, "window=9,merge-clean-pass")
    assert exact.engine.memory.extent_pages == 12
    assert less.engine.memory.extent_pages == 9
    assert isinstance(less.engine.generator, MergingGenerator)
    # A job that began with the other window starts over: its picture would jump.
    assert less.fingerprint == f"{exact.fingerprint}|window=9,merge-clean-pass"
    exact.engine.close()
    less.engine.close()


def test_the_policy_s_steps_are_those_of_whoever_asks_for_none(folder: Path) -> None:
    exact, less = built(folder, ""), built(folder, "steps=2")
    assert [one.list_models()[0]["steps"] for one in (exact, less)] == [4, 2]
    assert less.card.max_steps == exact.card.max_steps
    assert less.fingerprint == f"{exact.fingerprint}|steps=2"
    exact.close()
    less.close()


def test_merging_alone_lets_jobs_go_on_anywhere(folder: Path) -> None:
    merged = built(folder, "merge-clean-pass")
    assert "merge" not in merged.fingerprint
    merged.close()


def test_what_was_built_ends_its_engine_s_threads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, closed = built(folder, ""), []
    monkeypatch.setattr(one.engine, "close", lambda: closed.append("engine"))
    one.close()
    assert closed == ["engine"]


def test_a_policy_the_model_cannot_follow_is_one_sentence(folder: Path) -> None:
    with pytest.raises(CannotServe, match="it must hold both, so at least 6; enlarge the window"):
        built(folder, "window=4")


def test_a_device_too_small_for_weights_and_one_stream_is_told_so_before_loading(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("nothing is loaded")

    monkeypatch.setattr("server.worker.build.free_bytes", lambda device: 10_000)
    monkeypatch.setattr("server.worker.build.load_model", never)
    with pytest.raises(CannotServe) as refused:
        built(folder, "")
    assert "cpu has 0.0 GB; choose a shorter window (--policy window=N)" in str(refused.value)


def test_a_policy_the_model_cannot_follow_is_said_before_loading(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("nothing is loaded")

    monkeypatch.setattr("server.worker.build.load_model", never)
    with pytest.raises(CannotServe, match="it must hold both, so at least 6; enlarge the window"):
        built(folder, "window=4")


def test_kernels_that_cannot_run_are_one_sentence(folder: Path) -> None:
    settings = Settings(
        model=str(folder), device="cpu", dtype="float32", data_dir=folder, kernels="cudnn"
    )
    with pytest.raises(CannotServe, match="it needs a CUDA device, this is cpu"):
        build(settings, lambda line: None)


def test_kernels_asked_for_by_name_are_the_engine_s(folder: Path) -> None:
    said: list[str] = []
    settings = Settings(
        model=str(folder), device="cpu", dtype="float32", data_dir=folder, kernels="torch"
    )
    one = build(settings, said.append)
    blocks = one.engine.model.transformer.blocks
    assert {block._kernels.name for block in blocks} == {"torch"}
    assert any(line.startswith("measured and warmed up in ") for line in said)
    one.close()
