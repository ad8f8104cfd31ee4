"""Make a folder of vectors at other sizes, with ``reference.Reference`` in place of upstream."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.parity.manifest import write_manifest
from tests.parity.reference import Reference, Sizes, draw_weights

SHIFT = 3.0
STEPS = (1000, 600)


def _everything(q: int, k: int) -> bool:
    return True


def _save(folder: Path, name: str, tensors: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    plain = {
        key: value.float().contiguous() if value.is_floating_point() else value
        for key, value in tensors.items()
    }
    save_file(plain, folder / f"{name}.safetensors")


def _network(folder: Path, sizes: Sizes, generator: torch.Generator) -> Reference:
    weights = draw_weights(sizes, generator)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(sizes.config()))
    save_file(weights, folder / "weights.safetensors")
    return Reference(sizes, weights)


def _forward(folder: Path, network: Reference, generator: torch.Generator) -> None:
    sizes = network.sizes
    x = torch.randn(2, 4, 16, *sizes.latent_hw, generator=generator)
    t = 1000 * torch.rand(2, generator=generator)
    context = torch.randn(2, sizes.text_len, sizes.text_dim, generator=generator)
    flow = network.run(x, t[:, None].expand(2, 4), context, range(4), _everything)
    tensors = {"x": x.transpose(1, 2), "t": t, "context": context, "flow": flow.transpose(1, 2)}
    _save(folder, "bidirectional", tensors)

    context = context[:1]
    tensors = {"context": context}

    def case(name: str, frames: int, blocks: list[int], window: int = 99) -> None:
        def seen(q: int, k: int) -> bool:
            end = next(e for e in [*blocks[1:], frames] if e > q)
            return end - window <= k < end

        clip = torch.randn(1, frames, 16, *sizes.latent_hw, generator=generator)
        times = 1000 * torch.rand(1, frames, generator=generator)
        tensors[f"{name}.x"] = clip.transpose(1, 2)
        tensors[f"{name}.t"] = times
        out = network.run(clip, times, context, range(frames), seen)
        tensors[f"{name}.flow"] = out.transpose(1, 2)

    case("block2", 5, [0, 2, 4])
    case("block2_local4", 6, [0, 2, 4], window=4)
    case("iff2", 5, [0, 1, 3])
    case("block3", 6, [0, 3])
    clean = torch.randn(1, 6, 16, *sizes.latent_hw, generator=generator)

    def seen(q: int, k: int) -> bool:
        if q < 6:
            return k < 6 and k // 3 <= q // 3
        return k // 3 < (q - 6) // 3 if k < 6 else (k - 6) // 3 == (q - 6) // 3

    aug = torch.full((1, 6), 40.0)
    both = torch.cat((clean, tensors["block3.x"].transpose(1, 2)), 1)
    times = torch.cat((aug, tensors["block3.t"]), 1)
    out = network.run(both, times, context, [*range(6), *range(6)], seen)[:, 6:]
    tensors["teacher_forcing.clean_x"] = clean.transpose(1, 2)
    tensors["teacher_forcing.aug_t"] = aug
    tensors["teacher_forcing.flow"] = out.transpose(1, 2)
    _save(folder, "block_causal", tensors)

    tokens = sizes.latent_hw[0] * sizes.latent_hw[1] // 4
    heads = torch.randn(1, 3, tokens, sizes.num_heads, sizes.dim // sizes.num_heads)
    t = torch.tensor([0.0, 1.5, 999.0])
    half = sizes.freq_dim // 2
    angle = torch.stack([t.double() * 10000.0 ** (-j / half) for j in range(half)], -1)
    tensors = {"t": t, "sinusoidal": torch.cat((angle.cos(), angle.sin()), -1)}
    tensors["rope_in"] = heads.flatten(1, 2)
    for start in (0, 2000):
        turned = [network.rotate(heads[:, f].double(), start + f) for f in range(3)]
        tensors[f"rope_start{start}"] = torch.cat(turned, 1)
    _save(folder, "embeddings", tensors)


def _i2v(folder: Path, network: Reference, generator: torch.Generator) -> None:
    sizes = network.sizes
    assert sizes.clip_dim is not None
    x, y = (
        torch.randn(1, 2, channels, *sizes.latent_hw, generator=generator)
        for channels in (16, sizes.in_dim - 16)
    )
    clip_fea = torch.randn(1, 257, sizes.clip_dim, generator=generator)
    context = torch.randn(1, sizes.text_len, sizes.text_dim, generator=generator)
    t = torch.tensor([321.0])
    both = torch.cat((x, y), 2)
    flow = network.run(both, t[:, None].expand(1, 2), context, range(2), _everything, clip_fea)
    tensors = {"x": x.transpose(1, 2), "y": y.transpose(1, 2), "flow": flow.transpose(1, 2)}
    _save(folder, "forward", {**tensors, "t": t, "context": context, "clip_fea": clip_fea})


def _levels() -> tuple[list[float], list[float]]:
    """Timesteps and sigmas from the reference's float32 table."""
    u = torch.linspace(1.0, 0.0, 1001)[:-1]
    table = SHIFT * u / (1 + (SHIFT - 1) * u)
    places = [1000 - step for step in STEPS]
    return [(table * 1000)[i].item() for i in places], [table[i].item() for i in places]


def _rollout(
    network: Reference, generator: torch.Generator, window: int, sink: int, chunk: int, chunks: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Roll out ``chunks`` chunks with a window; the facts for ``cases.json``, the tensors."""
    sizes = network.sizes
    network.cache = [{} for _ in network.cache]
    timesteps, sigmas = _levels()
    frames, tokens = chunk * chunks, sizes.latent_hw[0] * sizes.latent_hw[1] // 4
    noise = torch.randn(1, frames, 16, *sizes.latent_hw, generator=generator)
    context = torch.randn(1, sizes.text_len, sizes.text_dim, generator=generator)
    tensors = {"noise": noise, "prompt_embeds": context}
    passes: list[dict[str, float | int]] = []
    latents, cached = [], 0
    for index in range(chunks):
        start = index * chunk
        places = range(start, start + chunk)
        end = start + chunk
        room = window - chunk
        past = [f for f in range(start) if start <= room or f < sink or f >= start - (room - sink)]
        cached = len(past) + chunk

        def step(
            x: Tensor,
            t: float,
            store: bool = False,
            places: range = places,
            past: list[int] = past,
            cached: int = cached,
        ) -> Tensor:
            passes.append(
                {
                    "start_frame": places[0],
                    "frames": chunk,
                    "timestep": t,
                    "global_end": places[-1] * tokens + tokens,
                    "local_end": cached * tokens,
                }
            )
            times = torch.full((1, chunk), t)
            return network.run(x, times, context, places, _everything, cached=past, store=store)

        x = noise[:, start:end].double()
        for k, (t, sigma) in enumerate(zip(timesteps, sigmas, strict=True)):
            x0 = x - sigma * step(x, t)
            tensors[f"chunk{index:02d}.x0.{k}"] = x0
            if k + 1 < len(STEPS):
                fresh = torch.randn(1, chunk, 16, *sizes.latent_hw, generator=generator)
                tensors[f"chunk{index:02d}.renoise.{k}"] = fresh
                x = (1 - sigmas[k + 1]) * x0 + sigmas[k + 1] * fresh
        tensors[f"chunk{index:02d}.flow.context"] = step(x0, 0.0, store=True)
        latents.append(x0)
    tensors["latents"] = torch.cat(latents, 1)
    facts = {
        "B": 1,
        "num_frames": frames,
        "latent_hw": list(sizes.latent_hw),
        "num_frame_per_block": chunk,
        "local_attn_size": window,
        "sink_size": sink,
        "denoising_step_list": list(STEPS),
        "warp_denoising_step": True,
        "timestep_shift": SHIFT,
        "context_noise": 0,
        "independent_first_frame": False,
        "initial_frames": 0,
        "frame_seq_length": tokens,
        "kv_cache_tokens": window * tokens,
        "timesteps": timesteps,
        "sigmas": sigmas,
        "final_global_end": frames * tokens,
        "final_local_end": cached * tokens,
        "passes": passes,
    }
    return facts, tensors


@torch.inference_mode()
def make_folder(folder: Path, sizes: Sizes, i2v: Sizes, seed: int) -> None:
    """Write ``transformer``, ``forward``, ``i2v`` and ``rollouts`` with their manifest."""
    generator = torch.Generator().manual_seed(seed)
    network = _network(folder / "transformer", sizes, generator)
    _forward(folder / "forward", network, generator)
    _i2v(folder / "i2v", _network(folder / "i2v", i2v, generator), generator)
    cases = {}
    for name, (window, sink, chunk, chunks) in {
        "local8_sink2_chunk2": (8, 2, 2, 6),
        "local3_sink1_framewise": (3, 1, 1, 6),
    }.items():
        cases[name], tensors = _rollout(network, generator, window, sink, chunk, chunks)
        _save(folder / "rollouts", name, tensors)
    (folder / "rollouts" / "cases.json").write_text(json.dumps(cases))
    write_manifest(folder)
