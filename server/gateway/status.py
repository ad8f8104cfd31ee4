"""Health, readiness, models and metrics."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from server.catalogue import ModelCard
from server.fabric.connection import Connection, FabricError
from server.fabric.keys import Kind
from server.fabric.queue import WorkQueue
from server.fabric.workers import known_models, model_cards, snapshots
from server.gateway.context import Gateway
from server.gateway.envelope import RestError
from server.gateway.metrics import render

READY_WITHIN_S = 0.8
"""How long Redis may take where whoever asks has a deadline of its own."""
_READY = ("model", "device", "streams_fit", "streams_free")
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def router(gateway: Gateway) -> APIRouter:
    """Return the routes for operators and the list of models."""
    routes = APIRouter(tags=["status"])

    @routes.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Say that this process answers."""
        return {"status": "ok"}

    @routes.get("/readyz")
    async def readyz() -> JSONResponse:
        """Say whether a stream could start: Redis answers and a worker has reported."""
        if gateway.draining.is_set():
            return _not_ready("stopping")
        try:
            # A lost connection is tried for longer.
            async with asyncio.timeout(READY_WITHIN_S):
                alive = await snapshots(gateway.redis)
        except (FabricError, TimeoutError):
            return _not_ready("Redis does not answer")
        if not alive:
            return _not_ready("no worker has reported")
        workers = {
            name: {key: snapshot.get(key) for key in _READY} for name, snapshot in alive.items()
        }
        return JSONResponse({"status": "ready", "workers": workers})

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        """List models: those being served first, then the others that could be."""
        cards = await gateway.cards()
        known = await known_models(gateway.redis)
        served = [_served(card, known.get(card.name)) for card in cards.values()]
        others = [_not_served(model) for name, model in known.items() if name not in cards]
        return {"object": "list", "data": [*served, *others]}

    @routes.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """Return one model of the list."""
        for found in (await models())["data"]:
            if found["id"] == name:
                return dict(found)
        raise RestError(404, "model_not_found", f"model {name[:80]}; see GET /v1/models", "model")

    @routes.get("/metrics")
    async def metrics() -> Response:
        """Return this gateway's and every worker's metrics for Prometheus."""
        alive: dict[str, dict[str, Any]] = {}
        waiting: dict[str, dict[Kind, int]] = {}
        # Prometheus gives up soon; what this process knows itself is shown in any case.
        with contextlib.suppress(FabricError, TimeoutError):
            async with asyncio.timeout(READY_WITHIN_S):
                alive = await snapshots(gateway.redis)
                waiting = await _waiting(gateway.redis)
        return Response(render(gateway.metrics, alive, waiting), media_type=PROMETHEUS)

    return routes


def _not_ready(reason: str) -> JSONResponse:
    body = {"status": "unavailable", "reason": reason}
    return JSONResponse(body, status_code=503, headers={"Retry-After": "2"})


async def _waiting(redis: Connection) -> dict[str, dict[Kind, int]]:
    """Return how many streams and jobs wait for each model on offer."""
    kinds: tuple[Kind, ...] = ("live", "job")
    return {
        model: {kind: await WorkQueue(redis, model, kind).depth() for kind in kinds}
        for model in await model_cards(redis)
    }


_NEEDS = (
    "disk_bytes", "weights_bytes", "text_encoder_bytes", "kv_bytes_per_session",
    "decoder_state_bytes_per_session", "streams_that_fit",
)  # fmt: skip
_ABOUT = ("title", "licence_url", "codecs", "continuation", "present", "missing_files")


def _served(card: ModelCard, known: Mapping[str, Any] | None) -> dict[str, Any]:
    """Describe a model that a stream can ask for now."""
    own = {key: value for key, value in card.to_json().items() if key != "name"}
    described = {} if known is None else _described(known)
    sizes = [f"{width}x{height}" for width, height in card.sizes]
    return {**_model(card.name, serving=True), **described, **own, "sizes": sizes}


def _not_served(known: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a model that would have to be fetched, or only named with ``--model``."""
    own = {key: known[key] for key in ("sizes", "licence", "notes", "example_prompts")}
    return {
        **_model(known["name"], serving=False),
        **own,
        "fps": [known["fps"]],
        "start_image": known["image_to_video"],
        **_described(known),
    }


def _described(known: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{key: known[key] for key in _ABOUT},
        "needs": {key: known[key] for key in _NEEDS},
    }


def _model(name: str, *, serving: bool) -> dict[str, Any]:
    return {"id": name, "object": "model", "owned_by": "longtake", "serving": serving}
