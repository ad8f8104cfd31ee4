"""The engine of a worker, built from settings: device, dtype, weights, measured costs.

The only module of the server that loads a model. It says what it does while doing it, and turns
every reason why it cannot into one sentence.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from engine.accelerated import entry_under
from engine.assemble import assemble
from engine.bands import check_devices
from engine.config import EngineConfig, free_memory
from engine.device import open_device
from engine.dtype import dtype_named
from engine.engine import Engine
from engine.followers import Followers, devices_from
from engine.work_policy import WorkPolicy
from kernels.select import Target, select
from models.accelerate import accelerate
from models.card import shipped
from models.entry import ModelEntry
from models.interface import LoadedModel
from models.loading import load_model, locate
from models.needs import needs
from models.registry import find
from server.catalogue import ModelCard
from server.config import Settings
from server.worker.listing import ModelListing
from server.worker.room import Room, check_room

Say = Callable[[str], None]


class CannotServe(Exception):
    """The model cannot be served here; the message says why and what to change."""


@dataclass(frozen=True, slots=True)
class Built:
    """An engine ready to run, and what to say about it.

    Attributes:
        engine: Runs the model.
        card: What gateways must know of it.
        device: For people.
        fingerprint: Of what decides the picture.
        list_models: Describes every model that could be served here.
        followers: The other devices of every stream; None where the engine has one device.
    """

    engine: Engine
    card: ModelCard
    device: str
    fingerprint: str
    list_models: Callable[[], list[dict[str, Any]]]
    followers: Followers | None = None

    def close(self) -> None:
        """End the engine's own threads and the processes of other devices; it is used no more."""
        self.engine.close()
        if self.followers is not None:
            self.followers.close()


def cache_dir(data_dir: Path) -> Path:
    """Return where fetched weights lie."""
    return data_dir / "models"


def choose_device(wanted: str) -> torch.device:
    """Return the device to use.

    Raises:
        CannotServe: It is not there.
    """
    try:
        return open_device(wanted)
    except ValueError as error:
        raise CannotServe(str(error)) from None


def device_bytes(device: torch.device) -> int:
    """Return the memory of an accelerator, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def build(settings: Settings, say: Say) -> Built:
    """Load the model and measure what it costs on this device.

    Raises:
        CannotServe: The model or the device is not there, or too small.
    """
    device, devices = choose_device(settings.device), settings.tensor_devices
    policy = WorkPolicy.parse(settings.policy)
    try:
        policy.check_devices(devices)
        entry = entry_under(_entry(settings), policy)
        check_devices(entry, devices)
        devices_from(device, devices)
    except (ValueError, OSError, RuntimeError) as error:
        raise CannotServe(f"{settings.model} cannot be served: {error}") from error
    if settings.dtype == "auto":
        say(f"measuring which dtype {device} computes fastest")
    dtype = dtype_named(settings.dtype, device, time.monotonic)
    named = f"{device} {str(dtype).removeprefix('torch.')}"
    if devices > 1:
        named = f"{devices} x {named}"
    say(f"loading {settings.model} on {named}")
    followers = None
    try:
        target = Target(device, dtype, entry.transformer.head_dim)
        kernels = select(target, settings.kernels)
        _check_room(entry, settings, device, dtype)
        model = load_model(
            settings.model,
            device=device,
            dtype=dtype,
            cache_dir=cache_dir(settings.data_dir),
            codec=settings.codec,
            kernels=kernels,
            text_placement=settings.text_device,
            random_weights=settings.random_weights,
        )
        config = EngineConfig(devices=devices)
        if settings.max_sessions is not None:
            config = replace(config, max_sessions=settings.max_sessions)
        if devices > 1:
            say(f"starting {devices - 1} more, which share every stream; chunks run eagerly")
            followers = Followers.start(model, devices, kernels=kernels, backend=settings.kernels)
            if device.type == "cuda":
                accelerate(model.transformer, kernels)
        say("measuring what a chunk costs here")
        began = time.monotonic()
        engine = assemble(
            model,
            config,
            time.monotonic,
            policy,
            kernels,
            max_steps=max_steps(model),
            followers=followers,
        )
        model, graphs = engine.model, engine.generator.graphs
        captured = f", {graphs} graphs captured" if graphs else ""
        say(f"measured and warmed up in {time.monotonic() - began:.1f} s{captured}")
    except (ValueError, OSError, RuntimeError) as error:
        if followers is not None:
            followers.close()
        raise CannotServe(f"{settings.model} cannot be served: {error}") from error
    listing = ModelListing(
        model,
        cache_dir=cache_dir(settings.data_dir),
        device_bytes=device_bytes(device),
        text_on_device=settings.text_device == "device" or device.type == "cpu",
        streams_fit=engine.capacity().streams_fit,
    )
    fingerprint = f"{model.entry.name}|{model.entry.codec.name}|{named}"
    if policy.changes_picture:
        fingerprint += f"|{policy}"
    return Built(engine, card_of(model), named, fingerprint, listing, followers)


def free_bytes(device: torch.device) -> int:
    """Return the memory of an accelerator that nobody holds, or all of the machine's."""
    return free_memory(device) if device.type == "cuda" else device_bytes(device)


def _check_room(
    entry: ModelEntry, settings: Settings, device: torch.device, dtype: torch.dtype
) -> None:
    """See before anything is loaded that weights and one stream fit on the device.

    Raises:
        ValueError: They do not.
    """
    need = needs(entry, element_bytes=dtype.itemsize, codec=settings.codec)
    if settings.random_weights:
        need = replace(need, text_bytes=0)  # drawn ones come without a text encoder
    room = Room(
        str(device),
        free_bytes(device),
        EngineConfig().memory_share,
        settings.tensor_devices,
        device.type == "cpu",
    )
    check_room(need, room, text_here=settings.text_device == "device")


def _entry(settings: Settings) -> ModelEntry:
    """Return what the model will be, before it is loaded."""
    if settings.random_weights:
        return shipped(find(settings.model))
    entry, _, _ = locate(settings.model, cache_dir(settings.data_dir), settings.codec)
    return entry


def max_steps(model: LoadedModel) -> int:
    """Return the most denoising steps that a client may ask for."""
    return max(16, len(model.entry.sampler.steps))


def card_of(model: LoadedModel) -> ModelCard:
    """Return what gateways must know of a loaded model."""
    entry = model.entry
    return ModelCard(
        name=entry.name,
        sizes=entry.sizes,
        fps=(entry.fps,),
        max_steps=max_steps(model),
        chunk_frames=model.codec.frames_for(entry.cache.chunk_frames, False),
        start_image=entry.image_to_video,
        licence=entry.licence,
        notes=entry.notes,
        example_prompts=entry.example_prompts,
        created=int(datetime.now(UTC).timestamp()),
    )
