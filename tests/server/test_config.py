import argparse
from pathlib import Path

import pytest
from pydantic import ValidationError

from server.config import (
    Settings,
    SettingsError,
    add_flags,
    read_settings,
    without_password,
)


def _read(*words: str, **variables: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return read_settings(
        parser.parse_args(words), {f"LONGTAKE_{k}": v for k, v in variables.items()}
    )


def test_the_defaults_run_everything_on_loopback() -> None:
    settings = _read()
    assert (settings.role, settings.host, settings.port) == ("all", "127.0.0.1", 8000)
    assert (settings.model, settings.resume_grace_s) == ("longtake-tiny", 30.0)


def test_a_flag_wins_over_its_variable() -> None:
    assert _read("--port", "9000", PORT="9001").port == 9000
    assert _read(PORT="9001").port == 9001


def test_a_variable_holds_several_keys_apart_by_commas() -> None:
    assert _read(API_KEY="12345678,abcdefgh").api_keys == ("12345678", "abcdefgh")


def test_origins_in_a_variable_are_parted_by_commas() -> None:
    assert _read(ALLOW_ORIGIN="https://a, http://b:1").allow_origins == ("https://a", "http://b:1")


@pytest.mark.parametrize(
    "origin",
    ["http://a:443", "https://a:80", "http://[::1]:8000", "chrome-extension://abc", "http://a_b"],
)
def test_an_origin_as_a_browser_sends_it_is_allowed(origin: str) -> None:
    assert _read("--allow-origin", origin).allow_origins == (origin,)


def test_every_setting_survives_the_way_to_a_child() -> None:
    line = (
        "--role worker --host 127.0.0.1 --port 0 --model m --data-dir d --device cpu "
        "--redis-url redis://:secret@h:1/0 --dtype float32 --resume-grace 3 --api-key 12345678 "
        "--api-key abcdefgh --allow-origin http://a --max-sessions 3 --codec wan-vae "
        "--text-device offload --policy window=9,merge-clean-pass --tensor-devices 2"
    )
    settings = _read(*line.split())
    child = read_settings(argparse.Namespace(), settings.environment())
    assert child == settings.model_copy(update={"data_dir": Path("d").absolute()})


@pytest.mark.parametrize(
    ("words", "seen", "allowed"),
    [
        (("--port", "70000"), "70000", "65535"),
        (("--port", "http"), "http", "integer"),
        (
            ("--device", "tpu"),
            "--device tpu",
            "allowed are auto, cpu, mps, cuda and one of several",
        ),
        (
            ("--redis-url", "redis://h:notaport"),
            "--redis-url",
            "port of a Redis address is a number",
        ),
        (("--text-device", "disk"), "--text-device disk", "'device', 'cpu' or 'offload'"),
        (("--policy", "window=9,faster"), "'faster'", "keep-pages=N, linear=fp8 and attention=fp8"),
        (("--tensor-devices", "0"), "--tensor-devices 0", "greater than or equal to 1"),
        (("--tensor-devices", "two"), "--tensor-devices two", "integer"),
        (("--host", "0.0.0.0"), "0.0.0.0", "--api-key"),
        (("--role", "gateway"), "gateway", "--redis-url"),
        (("--redis-url", "http://x"), "--redis-url", "redis://"),
        (("--allow-origin", "foo"), "foo is no origin", "https://example.org"),
        (("--allow-origin", "https://a/"), "https://a/ is no origin", "without a path"),
        (("--allow-origin", "https://a:b"), "https://a:b is no origin", "https://example.org"),
        (("--allow-origin", "https://u@a"), "https://u@a is no origin", "https://example.org"),
        (("--allow-origin", "https://A.org"), "https://A.org", "write https://a.org"),
        (("--allow-origin", "HTTPS://a.org"), "HTTPS://a.org", "write https://a.org"),
        (("--allow-origin", "https://a.org:443"), "https://a.org:443", "write https://a.org"),
        (("--allow-origin", "http://[FE80::1]:080"), "FE80", "write http://[fe80::1]"),
        (("--allow-origin", "https://a.org:08443"), "08443", "write https://a.org:8443"),
        (("--resume-grace", "-1"), "-1", "greater than 0"),
        (("--api-key", "short"), "--api-key", "longer"),
        (("--api-key", "longenough,andtwo"), "--api-key", "comma, which separates keys"),
    ],
)
def test_a_wrong_setting_is_one_sentence(words: tuple[str, ...], seen: str, allowed: str) -> None:
    with pytest.raises(SettingsError) as refused:
        _read(*words)
    assert seen in str(refused.value)
    assert allowed in str(refused.value)
    assert "\n" not in str(refused.value)


def test_secrets_are_not_repeated_in_refusals() -> None:
    with pytest.raises(SettingsError) as refused:
        _read("--api-key", "hunter2")
    assert "hunter2" not in str(refused.value)
    with pytest.raises(SettingsError) as refused:
        _read("--api-key", "hunter2,hunter2")
    assert "hunter2" not in str(refused.value)
    with pytest.raises(SettingsError) as refused:
        _read("--redis-url", "http://:hunter2@x")
    assert "hunter2" not in str(refused.value)
    assert without_password("redis://user:hunter2@h:6379/0") == "redis://***@h:6379/0"
    assert without_password("unix:///run/redis.sock") == "unix:///run/redis.sock"
    in_query = "unix:///run/r.sock?db=1&%70assword=hunter2&ssl_password=hunter3&protocol=2"
    assert without_password(in_query) == (
        "unix:///run/r.sock?db=1&%70assword=***&ssl_password=***&protocol=2"
    )


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]
