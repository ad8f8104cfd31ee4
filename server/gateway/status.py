"""Health, readiness, models and metrics."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from server.fabric.connection import FabricError
from server.fabric.workers import snapshots
from server.gateway.context import Gateway
from server.gateway.envelope import RestError
from server.gateway.metrics import render

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
        try:
            alive = await snapshots(gateway.redis)
        except FabricError:
            body: dict[str, Any] = {"status": "unavailable", "reason": "Redis does not answer"}
            return JSONResponse(body, status_code=503)
        if gateway.draining.is_set():
            return JSONResponse({"status": "unavailable", "reason": "stopping"}, status_code=503)
        if not alive:
            body = {"status": "unavailable", "reason": "no worker has reported"}
            return JSONResponse(body, status_code=503)
        workers = {
            name: {key: snapshot[key] for key in ("model", "device", "streams_fit", "streams_free")}
            for name, snapshot in alive.items()
        }
        return JSONResponse({"status": "ready", "workers": workers})

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        """List the models on offer, with what each can do."""
        cards = await gateway.cards()
        return {
            "object": "list",
            "data": [
                {
                    "id": card.name,
                    "object": "model",
                    "owned_by": "longtake",
                    **{k: v for k, v in card.to_json().items() if k != "name"},
                    "sizes": [f"{width}x{height}" for width, height in card.sizes],
                }
                for card in cards.values()
            ],
        }

    @routes.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """Return one model on offer."""
        for found in (await models())["data"]:
            if found["id"] == name:
                return dict(found)
        raise RestError(404, "model_not_found", f"model {name[:80]}; see GET /v1/models", "model")

    @routes.get("/metrics")
    async def metrics() -> Response:
        """Return this gateway's and every worker's metrics for Prometheus."""
        try:
            alive = await snapshots(gateway.redis)
        except FabricError:
            alive = {}
        return Response(render(gateway.metrics, alive), media_type=PROMETHEUS)

    return routes
