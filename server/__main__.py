"""``python -m server``: run Longtake, or one of its commands.

Without a command it runs the server (see ``server.config`` for the flags). Commands: ``models``,
``fetch``, ``convert``, ``doctor``, ``bench``.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

from engine.environment import prepare_environment
from server.config import Settings, SettingsError, add_flags, read_settings
from server.data_folder import DataFolderError, prepare

COMMANDS = ("models", "fetch", "convert", "doctor", "bench")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
CANNOT = 2
INTERRUPTED = 130


def say(line: str) -> None:
    """Print one line for people, at once."""
    sys.stdout.write(f"==> {line}\n")
    sys.stdout.flush()


def main(words: Sequence[str] | None = None) -> int:
    """Run the server or a command; return the exit status."""
    words = sys.argv[1:] if words is None else words
    prepare_environment()  # before anything loads torch
    level = os.environ.get("LONGTAKE_LOG", "").upper() or "WARNING"
    if level not in LEVELS:
        return _cannot(f"LONGTAKE_LOG {level.lower()}; allowed are {', '.join(LEVELS).lower()}")
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if words and words[0] in COMMANDS:
        try:
            return _command(words[0])(words[1:])
        except KeyboardInterrupt:
            return INTERRUPTED
    if words and not words[0].startswith("-"):
        return _cannot(
            f"{words[0]} is no command; commands are {', '.join(COMMANDS)}, and without one the "
            "server runs"
        )
    parser = argparse.ArgumentParser(
        prog="python -m server",
        description="Serve live streams and video jobs of a causal video model.",
        epilog=f"Commands: {', '.join(COMMANDS)}; each has its own --help. Every flag has a "
        "variable, such as LONGTAKE_PORT; keys and passwords belong there.",
    )
    parser.add_argument("--version", action="version", version=f"longtake {version('longtake')}")
    add_flags(parser)
    try:
        settings = read_settings(parser.parse_args(words), os.environ)
    except SettingsError as error:
        return _cannot(str(error))
    try:
        prepare(settings.data_dir)
        return _serve(settings)
    except DataFolderError as error:
        return _cannot(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED


def _command(name: str) -> Callable[[Sequence[str]], int]:
    # Imported when asked for: most of them load torch.
    if name == "bench":
        from server.bench.command import main as bench

        return bench
    from server import commands

    return {
        "models": commands.models,
        "fetch": commands.fetch,
        "convert": commands.convert,
        "doctor": commands.doctor,
    }[name]


def _serve(settings: Settings) -> int:
    if settings.role == "worker":
        from server.worker.build import CannotServe, build
        from server.worker.main import run_worker

        try:
            # Before any signal handler of ours: loading is ended by a plain SIGTERM.
            built = build(settings, say)
            asyncio.run(run_worker(settings, built, say))
        except CannotServe as error:
            return _cannot(str(error))
        return 0
    from server.gateway.main import CannotListen, bind, inherit, run_gateway
    from server.launch import LISTENER_FD, GivenUp, Supervisor

    try:
        if settings.role == "gateway":
            inherited = os.environ.get(LISTENER_FD)
            if inherited is not None:
                listener = inherit(LISTENER_FD, inherited)
            else:
                listener = bind(settings.host, settings.port)
                say(f"gateway on http://{settings.host}:{listener.getsockname()[1]}")
            with listener:
                asyncio.run(run_gateway(settings, listener, say))
            return 0
        asyncio.run(_supervise(Supervisor, settings))
    except (CannotListen, GivenUp) as error:
        return _cannot(str(error))
    return 0


async def _supervise(make: type, settings: Settings) -> None:
    # Made inside the loop: it holds an event of it.
    await make(settings, say).run()


def _cannot(sentence: str) -> int:
    sys.stderr.write(f"error: {sentence}\n")
    return CANNOT


if __name__ == "__main__":
    sys.exit(main())
