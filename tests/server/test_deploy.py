"""The container files, checked as far as they can be without a container engine."""

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.config import Settings, SettingsError, add_flags, default_data_dir, read_settings
from server.gateway.app import create_app
from server.gateway.context import Gateway

ROOT = Path(__file__).resolve().parents[2]
KEY = "a key for compose"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    text = (ROOT / "docker-compose.yml").read_text()
    # What compose does with variables, as far as this file uses them.
    text = re.sub(r"\$\{LONGTAKE_API_KEY[^}]*\}", KEY, text)
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    assert "${" not in text
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def _settings(service: dict[str, Any]) -> Settings:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return read_settings(parser.parse_args(service["command"]), service["environment"])


@pytest.mark.parametrize("name", ["gateway", "worker", "worker-cuda"])
def test_every_service_of_ours_is_started_with_settings_that_are_allowed(
    compose: dict[str, Any], name: str
) -> None:
    settings = _settings(compose["services"][name])
    assert settings.role == name.partition("-")[0]
    assert settings.redis_url == "redis://redis:6379/0"
    assert settings.api_keys == (KEY,)
    assert str(settings.data_dir) == "/data"


def test_a_fetch_in_the_workers_container_writes_where_the_worker_looks(
    compose: dict[str, Any],
) -> None:
    worker = compose["services"]["worker"]
    data_dir = default_data_dir(worker["environment"])
    assert data_dir == _settings(worker).data_dir
    assert any(volume.partition(":")[2] == str(data_dir) for volume in worker["volumes"])


def test_without_a_key_the_gateway_would_not_start(compose: dict[str, Any]) -> None:
    service = compose["services"]["gateway"]
    keyless = {**service, "environment": {**service["environment"], "LONGTAKE_API_KEY": ""}}
    with pytest.raises(SettingsError, match="without an API key"):
        _settings(keyless)


def test_redis_keeps_everything_and_evicts_nothing(compose: dict[str, Any]) -> None:
    words = compose["services"]["redis"]["command"]
    flags = dict(zip(words[1::2], words[2::2], strict=True))
    assert flags == {
        "--appendonly": "yes",
        "--appendfsync": "everysec",
        "--maxmemory-policy": "noeviction",
        "--save": "",
    }


def test_volumes_and_services_that_are_named_exist(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            assert volume.split(":")[0] in compose["volumes"]
        assert set(service.get("depends_on", ())) <= set(compose["services"])
        assert {config["source"] for config in service.get("configs", ())} <= set(
            compose["configs"]
        )


def test_prometheus_scrapes_the_gateway_with_the_key(compose: dict[str, Any]) -> None:
    config = yaml.safe_load(compose["configs"]["prometheus"]["content"])
    (job,) = config["scrape_configs"]
    assert job["authorization"] == {"type": "Bearer", "credentials": KEY}
    (target,) = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    gateway = compose["services"][host]
    assert port in gateway["command"]
    assert gateway["ports"] == [f"8000:{port}"]


def _stages() -> dict[str, list[list[str]]]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    stages: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        if line.startswith("FROM "):
            stages[line.split()[-1]] = current = []
        elif line and not line.startswith("#"):
            current.append(shlex.split(line))
    return stages


def test_the_images_have_both_targets_and_the_default_is_for_cpus() -> None:
    assert list(_stages()) == ["cpu", "cuda"]


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_copies_what_exists_and_pins_the_torch_of_the_project(target: str) -> None:
    lines = _stages()[target]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in lines:
        if line[0] == "COPY":
            for source in line[1:-1]:
                assert f"!{source}" in ignored
                assert (ROOT / source).exists(), source
    pin = re.search(r'"(torch==[^"]+)"', (ROOT / "pyproject.toml").read_text())
    assert pin is not None
    assert any(pin[1] in line for line in lines)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages <= {line[1] for line in lines if line[0] == "COPY"}


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_runs_the_command_and_asks_an_address_that_exists(target: str) -> None:
    lines = _stages()[target]
    (entry,) = [line for line in lines if line[0] == "ENTRYPOINT"]
    assert entry[1:] == ["[python,", "-m,", "server]"]
    (health,) = [" ".join(line) for line in lines if line[0] == "HEALTHCHECK"]
    path = re.search(r"127\.0\.0\.1:8000(/\w+)", health)
    assert path is not None
    app = create_app(Gateway(None), web=None)  # type: ignore[arg-type]
    assert path[1] in app.openapi()["paths"]
