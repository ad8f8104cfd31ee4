"""The server's settings: flags and LONGTAKE_* variables, checked at the edge, then frozen.

A flag wins over its variable. Secrets (API keys, a Redis password) are better given as variables:
the command line of a process can be read by every user of the machine. Knows no process and opens
nothing.
"""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from engine.work_policy import WorkPolicy
from kernels.backend_name import Wanted
from server.gateway.auth import is_loopback

VARIABLE_PREFIX = "LONGTAKE_"


class SettingsError(Exception):
    """A setting that cannot be; the message says what was seen and what is allowed."""


class Settings(BaseModel):
    """Everything a server process is told.

    Attributes:
        role: What runs: everything on this machine, or one part next to a shared Redis.
        host: Address the gateway binds to.
        port: TCP port; 0 takes a free one.
        model: Name or folder of the model that the worker serves.
        data_dir: Jobs, results, Redis's files and fetched weights.
        redis_url: A shared Redis; None starts a private one.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` …
        dtype: ``auto`` measures at start-up.
        codec: One of the model's codecs, such as ``wan-vae`` or ``taehv``; None is its default.
        text_device: Where the text encoder works: always on the device, on the CPU, or on the
            device for each new prompt alone.
        kernels: ``auto``, or one of what ``python -m server doctor`` lists; never another instead.
        policy: How the engine saves work, as ``engine.work_policy`` reads it; empty is exact.
        tensor_devices: Devices that share every stream, from ``device`` on; the model's heads and
            sizes say which numbers are possible.
        api_keys: Any of them opens the API; none is needed on loopback.
        allow_origins: Web origins allowed besides the server's own page.
        resume_grace_s: How long a stream without its viewer is kept.
        keep_videos_days: How long ended jobs and their videos are kept; None is for ever.
        max_sessions: Live streams at most; None lets the engine decide.
        random_weights: Draw weights instead of reading them, for measurements.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["all", "gateway", "worker"] = "all"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    model: Annotated[str, Field(min_length=1)] = "longtake-tiny"
    data_dir: Path = Path("data")
    redis_url: str | None = None
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    codec: str | None = None
    text_device: Literal["device", "cpu", "offload"] = "device"
    kernels: Wanted = "auto"
    policy: str = ""
    tensor_devices: Annotated[int, Field(ge=1, le=64)] = 1
    api_keys: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    resume_grace_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    keep_videos_days: Annotated[float, Field(gt=0, le=36_500)] | None = None
    max_sessions: Annotated[int, Field(ge=1, le=4096)] | None = None
    random_weights: bool = False

    @field_validator("redis_url")
    @classmethod
    def _redis_scheme(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise ValueError("a Redis address begins with redis://, rediss:// or unix://")
        try:
            parts.port  # noqa: B018 - reading it is the check
        except ValueError:
            raise ValueError(
                "the port of a Redis address is a number up to 65535, as in redis://HOST:6379/0"
            ) from None
        return value

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
            raise ValueError("allowed are auto, cpu, mps, cuda and one of several, such as cuda:1")
        return value

    @field_validator("policy")
    @classmethod
    def _policy(cls, value: str) -> str:
        WorkPolicy.parse(value)
        return value

    @field_validator("api_keys")
    @classmethod
    def _keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(len(key) < 8 for key in value):
            raise ValueError("an API key of fewer than 8 characters; use a longer one")
        if any("," in key for key in value):
            # Child processes are given all keys in one variable.
            raise ValueError("an API key with a comma, which separates keys; use one without")
        return value

    @field_validator("allow_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            sent = _as_browsers_send(origin)
            if sent is None:
                raise ValueError(
                    f"{origin} is no origin; write it as browsers do, scheme, name and port if "
                    "any, without a path: https://example.org"
                )
            if origin != sent:
                raise ValueError(f"{origin} is no origin that a browser ever sends; write {sent}")
        return value

    @model_validator(mode="after")
    def _together(self) -> "Settings":
        if self.role != "worker" and not is_loopback(self.host) and not self.api_keys:
            raise ValueError(
                f"host {self.host} without an API key would let anybody in who reaches it; "
                "set LONGTAKE_API_KEY (or --api-key), or stay on 127.0.0.1"
            )
        if self.role != "all" and self.redis_url is None:
            raise ValueError(
                f"role {self.role} without --redis-url; gateways and workers meet in a shared Redis"
            )
        return self

    def environment(self) -> dict[str, str]:
        """Return the variables that give a child process the same settings."""
        values = {
            "ROLE": self.role,
            "HOST": self.host,
            "PORT": str(self.port),
            "MODEL": self.model,
            "DATA_DIR": str(self.data_dir.absolute()),
            "DEVICE": self.device,
            "DTYPE": self.dtype,
            "CODEC": self.codec or "",
            "TEXT_DEVICE": self.text_device,
            "KERNELS": self.kernels,
            "POLICY": self.policy,
            "TENSOR_DEVICES": str(self.tensor_devices),
            "API_KEY": ",".join(self.api_keys),
            "ALLOW_ORIGIN": ",".join(self.allow_origins),
            "RESUME_GRACE": str(self.resume_grace_s),
            "REDIS_URL": self.redis_url or "",
            "KEEP_VIDEOS": "" if self.keep_videos_days is None else str(self.keep_videos_days),
            "MAX_SESSIONS": "" if self.max_sessions is None else str(self.max_sessions),
            "RANDOM_WEIGHTS": "1" if self.random_weights else "",
        }
        return {VARIABLE_PREFIX + name: value for name, value in values.items()}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a server process; absent ones fall back to variables."""
    add = parser.add_argument
    add("--role", choices=("all", "gateway", "worker"), help="what to run (default: all)")
    add("--host", help="address to bind (default: 127.0.0.1)")
    add("--port", help="port to bind (default: 8000; 0 takes a free one)")
    add("--model", help="model to serve (default: longtake-tiny)")
    add("--data-dir", help="folder for jobs, results and Redis's data (default: ./data)")
    add("--redis-url", help="a shared Redis instead of a private one")
    add("--device", help="auto, cpu, cuda, cuda:1 (default: auto)")
    add("--dtype", help="auto, float32, bfloat16, float16 (default: auto, measured)")
    add("--codec", help="codec of the model, such as wan-vae or taehv (default: the model's own)")
    add(
        "--text-device",
        help="where prompts are encoded: device, cpu, or offload, which borrows "
        "the device for each new prompt (default: device)",
    )
    add("--kernels", help="auto, torch, sdpa, cudnn, flash, triton (default: auto; see doctor)")
    add("--policy", help="less work, such as window=9,merge-clean-pass (default: the exact path)")
    add("--tensor-devices", help="devices that share every stream, from --device on (default: 1)")
    add("--api-key", action="append", help="key that clients must send; may be repeated")
    add("--allow-origin", action="append", help="web origin allowed besides our own page")
    add("--resume-grace", help="seconds a stream without its viewer is kept (default: 30)")
    add("--keep-videos", help="days that ended jobs and their videos are kept (default: for ever)")
    add("--max-sessions", help="live streams at most (default: what the device holds)")
    add("--random-weights", action="store_true", default=None, help=argparse.SUPPRESS)


_FIELDS = {
    "api_key": "api_keys",
    "allow_origin": "allow_origins",
    "resume_grace": "resume_grace_s",
    "keep_videos": "keep_videos_days",
}
_LISTS = ("api_key", "allow_origin")


def read_settings(flags: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """Join flags and variables.

    Raises:
        SettingsError: A value is not allowed.
    """
    names = (
        "role", "host", "port", "model", "data_dir", "redis_url", "device", "dtype", "codec",
        "text_device", "kernels", "policy", "tensor_devices", "api_key", "allow_origin", "resume_grace",
        "keep_videos",
        "max_sessions", "random_weights",
    )  # fmt: skip
    values: dict[str, object] = {}
    for name in names:
        value: object = getattr(flags, name, None)
        variable = environment.get(VARIABLE_PREFIX + name.upper(), "")
        if value is None and variable:
            value = [part.strip() for part in variable.split(",")] if name in _LISTS else variable
        if value is not None:
            values[_FIELDS.get(name, name)] = value
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_sentence(error)) from None


def default_data_dir(environment: Mapping[str, str]) -> Path:
    """Return the data folder of a command that no flag names one for."""
    variable = environment.get(f"{VARIABLE_PREFIX}DATA_DIR", "")
    return Path(variable) if variable else Settings.model_fields["data_dir"].default


def parse_settings(words: Sequence[str]) -> Settings:
    """Read settings from a command line and this process's environment."""
    parser = argparse.ArgumentParser(prog="python -m server")
    add_flags(parser)
    return read_settings(parser.parse_args(words), os.environ)


def _sentence(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=True)[0]
    message = found["msg"].removeprefix("Value error, ")
    if not found["loc"]:
        return message
    field = str(found["loc"][0])
    flag = "--" + {field_: name for name, field_ in _FIELDS.items()}.get(field, field)
    # A key or a password is never repeated.
    secret = field in ("api_keys", "redis_url")
    seen = "" if secret else f" {found['input']}"
    return f"{flag.replace('_', '-')}{seen}: {message[:1].lower() + message[1:]}"


def _as_browsers_send(origin: str) -> str | None:
    """Return an origin in lower case and without its scheme's own port; None for what is none."""
    try:
        parts = urlsplit(origin)
        name, port = parts.hostname, parts.port
    except ValueError:
        return None
    whole = f"{parts.scheme}://{parts.netloc}"
    if not parts.scheme or not name or "@" in parts.netloc or origin.lower() != whole.lower():
        return None
    host = f"[{name}]" if ":" in name else name
    own = port is None or port == {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{host}" if own else f"{parts.scheme}://{host}:{port}"


def without_password(url: str) -> str:
    """Return a Redis address as it may be shown."""
    address, mark, query = url.partition("?")
    parts = urlsplit(address)
    if parts.password is not None:
        host = parts.netloc.rpartition("@")[2]
        address = urlunsplit(parts._replace(netloc=f"***@{host}"))
    # Where the address of a socket has its password.
    words = (word.partition("=") for word in query.split("&"))
    shown = (f"{n}=***" if "password" in unquote(n).lower() else n + e + v for n, e, v in words)
    return address + mark + "&".join(shown)
