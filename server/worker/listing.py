"""What this machine has and needs of every model in the registry, for ``GET /v1/models``.

Counted once from the entries; whether the files are there is looked up at every call, since a
model may be fetched while another one is served. Loads nothing and knows no Redis.
"""

from pathlib import Path
from typing import Any

from models.card import shipped
from models.entry import ModelEntry
from models.interface import LoadedModel
from models.needs import Needs, describe, needs
from models.registry import ENTRIES


class ModelListing:
    """Describes the models of the registry.

    Args:
        model: The one that is served; it is described as it was loaded.
        cache_dir: Where fetched files are.
        device_bytes: Memory of the device.
        text_on_device: Whether text encoders stay on the device.
        streams_fit: Live streams that the engine found room and time for.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        cache_dir: Path,
        device_bytes: int,
        text_on_device: bool,
        streams_fit: int,
    ) -> None:
        self._served = model.entry
        self._element_bytes = model.dtype.itemsize
        self._cache_dir = cache_dir
        self._device_bytes = device_bytes
        self._text_on_device = text_on_device
        self._streams_fit = streams_fit
        self._needs: dict[str, Needs] = {}

    def __call__(self) -> list[dict[str, Any]]:
        """Return one description for each model; ``loaded`` marks the one that is served."""
        served = self._served.name
        return [
            self._describe(self._served if known.name == served else shipped(known))
            for known in ENTRIES
        ]

    def _describe(self, entry: ModelEntry) -> dict[str, Any]:
        need = self._needs.get(entry.name)
        if need is None:
            need = self._needs[entry.name] = needs(entry, element_bytes=self._element_bytes)
        described = describe(
            entry,
            cache_dir=self._cache_dir,
            device_bytes=self._device_bytes,
            text_on_device=self._text_on_device,
            need=need,
        )
        if entry.name != self._served.name:
            return {**described, "loaded": False}
        # It may have come from a folder outside the cache, and its streams were measured.
        measured = {"streams_that_fit": self._streams_fit}
        return {**described, **measured, "present": True, "missing_files": [], "loaded": True}
