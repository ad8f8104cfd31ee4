"""What README tells people to type works, and what it names exists."""

import asyncio
import importlib
import os
import re
import shlex
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import av
import pytest

from models.registry import names
from server.fabric.connection import Connection
from server.fabric.keys import Kind
from server.gateway.metrics import GatewayMetrics, render
from server.jobs.parts import JobParts
from server.jobs.routes import jobs_router
from server.jobs.runner import JobRunner, RunnerParts
from server.jobs.store import JobStore
from server.worker.stats import WorkerStats
from tests.conftest import RedisServer
from tests.documents import ROOT, Document, read
from tests.server.fakes import FakeEngine
from tests.server.harness import CARD, gateway, until, worker

README = read("README.md")
TRAINING = read("models/train/README.md")
DOCUMENTS = [
    README,
    TRAINING,
    read("ARCHITECTURE.md"),
    read("CONTRIBUTING.md"),
    read("models/train/LOG.md"),
]
ADDRESS = "http://127.0.0.1:8000"


def program(words: Sequence[str]) -> tuple[Callable[[list[str]], object], list[str]]:
    """Return the entry point of ``python -m …`` and the subcommands in front of its flags."""
    module = words[2]
    subcommands: list[str] = []
    for word in words[3:]:
        if word.startswith("-") or not re.fullmatch(r"[a-z]+", word):
            break
        subcommands.append(word)
    if module == "server":
        from server.__main__ import main as server

        return server, subcommands[:1]
    if module == "engine":
        from engine.cli import main as engine

        return engine, subcommands[:1]
    if module == "models.train":
        from models.train.__main__ import main as train

        # Every stage has the same flags; only the evaluator has its own.
        return train, subcommands[:1] if subcommands[:1] == ["evaluate"] else []
    if module == "longtake_client":
        from longtake_client.cli import main as client

        return client, subcommands[: 2 if subcommands[:1] == ["job"] else 1]
    if module == "tests.parity":
        from tests.parity.__main__ import main as parity

        return parity, []
    if module.startswith("tests.bench."):
        return importlib.import_module(module).main, []
    if module == "tests.parity.manifest":
        return lambda _: pytest.skip("takes a folder and no flags"), []
    raise AssertionError(f"python -m {module}; not a program of this project")


def python_commands() -> list[str]:
    found = {c for d in DOCUMENTS for c in d.commands() if c.startswith("python -m ")}
    return sorted(found)


@pytest.mark.parametrize("command", python_commands())
def test_every_command_and_flag_in_the_documents_exists(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command.replace("…", "x"), comments=True)
    main, subcommands = program(words)
    with pytest.raises(SystemExit) as left:
        main([*subcommands, "--help"])
    assert left.value.code == 0
    helped = capsys.readouterr().out
    for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
        assert re.search(rf"{re.escape(flag)}\b", helped), f"{flag} of {command!r} is not in --help"


def test_every_make_target_in_the_documents_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = {c.split()[1] for d in DOCUMENTS for c in d.commands() if c.startswith("make ")}
    assert {"run", "test", "check"} <= named
    assert named <= targets, f"no such targets: {named - targets}"


def test_flags_given_to_make_run_exist(capsys: pytest.CaptureFixture[str]) -> None:
    from server.__main__ import main

    with pytest.raises(SystemExit):
        main(["--help"])
    helped = capsys.readouterr().out
    given = re.findall(r'ARGS="([^"]*)"', README.text)
    flags = {word for words in given for word in words.split() if word.startswith("--")}
    assert flags
    assert all(flag in helped for flag in flags), flags


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_every_file_the_documents_name_exists(document: Document) -> None:
    top = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"runs", "docs"}
    beside = (ROOT / document.name).parent
    for text in document.marked():
        # Weights are made by training, and need not be here yet.
        if not re.fullmatch(r"[\w./-]+", text) or text.startswith("models/weights"):
            continue
        if text.split("/")[0] in top | {".ci"} or re.fullmatch(r"[A-Z]{3,}\.md|\w+\.toml", text):
            assert (ROOT / text).exists() or (beside / text).exists(), f"{document.name}: {text}"
        elif re.fullmatch(r"\w+\.py", text):
            assert (beside / text).exists(), f"{document.name}: {text}"


def test_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)]+)\)", document.prose):
            if target.startswith("#"):
                headings = re.findall(r"^#+ (.+)$", document.text, re.MULTILINE)
                anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
                assert target[1:] in anchors, f"{document.name}: {target}"
            elif not target.startswith("http"):
                assert (ROOT / document.name).parent.joinpath(target).exists(), target


def test_the_table_of_models_is_the_registry() -> None:
    assert tuple(name.strip("`") for name in README.rows("name")) == names()


def test_every_metric_named_is_shown() -> None:
    stats = WorkerStats()
    stats.ended("stopped")
    snapshot = {
        **dict.fromkeys(("pages_in_use", "pages_total", "streams_fit", "streams_free", "load"), 1),
        "sessions": {"live": 1},
        **stats.snapshot(),
    }
    metrics = GatewayMetrics()
    metrics.errors.labels("capacity").inc()
    waiting: dict[str, dict[Kind, int]] = {"longtake-tiny": {"live": 0, "job": 0}}
    shown = render(metrics, {"w1": snapshot}, waiting).decode()
    named = {text for text in README.marked() if text.startswith("longtake_")} - {"longtake_client"}
    assert len(named) >= 8
    for name in named:
        assert re.search(rf"^{name}(_bucket)?[{{ ]", shown, re.MULTILINE), name


def test_places_to_fill_are_marked_in_one_way() -> None:
    for comment in re.findall(r"<!--(.*?)-->", README.text, re.DOTALL):
        assert re.fullmatch(
            r" (measured: [a-z0-9-]+|picture: docs/[\w.-]+|table: [a-z]+|end of table) ", comment
        ), comment


@pytest.fixture
async def address(redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[str]:
    """Where a server listens that answers everything README does."""

    def now() -> float:
        return datetime.now(UTC).timestamp()

    redis = Connection(redis_server.url)
    store = JobStore(redis, now)
    with ThreadPoolExecutor(1) as executor:
        data = tmp_path / "data"

        async def cards() -> list[object]:
            return [CARD]

        routes = jobs_router(JobParts(store, cards, data, lambda: 1))  # type: ignore[arg-type]
        async with (
            worker(
                redis_server.url,
                FakeEngine(fit=8),
                run_job=lambda engine: JobRunner(RunnerParts(store, engine, data, executor, "x")),
            ),
            gateway(redis_server.url, routers=[routes]) as served,
        ):
            await until(served.context.cards)
            yield served.http
    await redis.close()


async def run(words: Sequence[str], folder: Path) -> str:
    """Run a program in ``folder`` and return what it printed."""
    paths = [str(ROOT / "clients" / "python"), os.environ.get("PYTHONPATH", "")]
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, told.decode()
    return told.decode()


def here(code: str, address: str) -> str:
    """Point an example at the test's server and its model."""
    moved = code.replace(ADDRESS, address).replace(
        ADDRESS.replace("http", "ws"), address.replace("http", "ws")
    )
    return moved.replace('"longtake-tiny"', f'"{CARD.name}"')


def frames_in(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.anyio
@pytest.mark.redis
@pytest.mark.parametrize(
    ("marker", "file", "frames"),
    [
        ("websockets.sync", "take.mp4", 96),
        ("longtake_client", "bird.mp4", 96),
        ("openai", "balloon.mp4", 128),
    ],
)
async def test_the_python_examples_run_as_they_are(
    marker: str, file: str, frames: int, address: str, tmp_path: Path
) -> None:
    (code,) = (block for block in README.blocks("python") if f"from {marker}" in block)
    (tmp_path / "example.py").write_text(here(code, address))
    told = await run([sys.executable, "example.py"], tmp_path)
    assert frames_in(tmp_path / file) == frames
    if marker == "websockets.sync":
        assert "session.interaction.applied" in told
        assert "error" not in told


def test_no_python_example_is_left_out() -> None:
    assert len(README.blocks("python")) == 3


@pytest.mark.anyio
@pytest.mark.redis
async def test_the_curl_examples_are_answered(address: str, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    lines = [c for c in README.commands() if c.startswith("curl ")]
    assert len(lines) >= 3
    for line in lines:
        told = await run(["curl", "--fail", *shlex.split(here(line, address))[1:]], tmp_path)
        assert '"object":"list"' in told or '"status":"queued"' in told, (line, told)


@pytest.mark.anyio
@pytest.mark.redis
async def test_the_command_line_examples_run(address: str, tmp_path: Path) -> None:
    lines = [c for c in README.commands() if c.startswith("python -m longtake_client ")]
    made = []
    for line in lines:
        words = shlex.split(line)[3:]
        if words[0] == "watch":
            words += ["--seconds", "2", "--out", "watched.mp4"]
        await run(
            [sys.executable, "-m", "longtake_client", "--url", address, *words],
            tmp_path,
        )
        made.append(words[words.index("--out") + 1])
    assert sorted(made) == ["car.mp4", "cube.mp4", "watched.mp4"]
    assert frames_in(tmp_path / "cube.mp4") == 6 * 16
    assert frames_in(tmp_path / "car.mp4") == 20 * 16
