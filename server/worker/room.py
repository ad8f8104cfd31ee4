"""Whether a model and one stream of it fit on a device, before anything is loaded.

Counts as ``engine.config.plan_memory`` does once the weights are there. Knows no device.
"""

from dataclasses import dataclass

from models.needs import Needs


@dataclass(frozen=True, slots=True)
class Room:
    """A device as a model finds it.

    Attributes:
        name: For people.
        free_bytes: Memory that nobody holds; of a CPU all of it, since much of it can be freed.
        share: Of what weights leave, what streams may have.
        devices: That share every stream, each with its own memory.
        is_cpu: Whether the text encoder lies in the same memory wherever it is put.
    """

    name: str
    free_bytes: int
    share: float
    devices: int = 1
    is_cpu: bool = False


def check_room(need: Needs, room: Room, *, text_here: bool) -> None:
    """See that weights and one stream fit.

    Args:
        need: Of the model under its policy, in the dtype it will have.
        room: Where it is to go.
        text_here: Whether the text encoder stays on the device.

    Raises:
        ValueError: They do not.
    """
    weights = need.weights_bytes + (need.text_bytes if text_here or room.is_cpu else 0)
    stream = need.kv_bytes // (1 if room.is_cpu else room.devices) + need.decoder_state_bytes
    wanted = weights + need.prompt_bytes + round(stream / room.share)
    if wanted <= room.free_bytes:
        return
    has = f"has {room.free_bytes / 1e9:.1f} GB"
    ways = "choose a shorter window (--policy window=N), or a smaller model, codec or dtype"
    if not room.is_cpu:
        has += " free"
        text = ", keep the text encoder on the CPU (--text-device cpu)" if text_here else ""
        ways = f"stop what else uses it{text}, or {ways}"
    raise ValueError(
        f"weights take {weights / 1e9:.1f} GB and a stream {stream / 1e9:.1f} GB, which may be at most "
        f"{room.share:.0%} of what is left, so {wanted / 1e9:.1f} GB in all; {room.name} {has}; {ways}"
    )
