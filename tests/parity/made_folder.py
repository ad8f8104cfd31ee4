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


class _Stream:
    """One stream through the reference, with a window and what ``cases.json`` says of it."""

    def __init__(
        self, network: Reference, window: int, sink: int, chunk: int, relative: bool = False
    ) -> None:
        network.cache = [{} for _ in network.cache]
        self.network, self.window, self.sink = network, window, sink
        self.chunk, self.relative = chunk, relative
        self.tokens = network.sizes.latent_hw[0] * network.sizes.latent_hw[1] // 4
        self.passes: list[dict[str, float | int]] = []
        self.held: list[int] = []  # frames in the cache, in order
        self.latents: list[Tensor] = []  # one for each frame
        self.timesteps, self.sigmas = _levels()

    def step(self, x: Tensor, start: int, t: float, context: Tensor, store: bool) -> Tensor:
        """One pass over the chunk at ``start``."""
        frames = list(range(start, start + self.chunk))
        if start not in self.held:
            self.held += frames
            while len(self.held) > self.window:
                del self.held[self.sink]
        past = [frame for frame in self.held if frame < start]
        places = {f: i if self.relative else f for i, f in enumerate(self.held)}
        self.note(frames, t)
        return self.network.run(
            x,
            torch.full((1, self.chunk), t),
            context,
            [places[f] for f in frames],
            _everything,
            cached=[(f, places[f]) for f in past],
            store=frames if store else (),
        )

    def note(self, frames: list[int], t: float) -> None:
        self.passes.append(
            {
                "start_frame": frames[0],
                "frames": len(frames),
                "timestep": t,
                "global_end": (frames[-1] + 1) * self.tokens,
                "local_end": len(self.held) * self.tokens,
            }
        )

    def make_chunk(self, index: int, tensors: dict[str, Tensor], context: Tensor, g: Any) -> None:
        """Denoise chunk ``index``, recording every intermediate, then the clean pass."""
        start, name = index * self.chunk, f"chunk{index:02d}"
        x = tensors["noise"][:, start : start + self.chunk].double()
        x0 = x
        for k, (t, sigma) in enumerate(zip(self.timesteps, self.sigmas, strict=True)):
            x0 = x - sigma * self.step(x, start, t, context, store=False)
            tensors[f"{name}.x0.{k}"] = x0
            if k + 1 < len(STEPS):
                fresh = torch.randn(x.shape, generator=g)
                tensors[f"{name}.renoise.{k}"] = fresh
                x = (1 - self.sigmas[k + 1]) * x0 + self.sigmas[k + 1] * fresh
        tensors[f"{name}.flow.context"] = self.step(x0, start, 0.0, context, store=True)
        self.latents += x0.split(1, 1)

    def recache(self, context: Tensor, global_sink: bool) -> None:
        """Rebuild the window in one bidirectional pass, as LongLive does."""
        made = len(self.latents)
        frames = list(range(max(0, made - self.window), made))
        kept = self.held[: self.sink] if global_sink and made > self.window else []
        if not global_sink:
            self.held = frames
        # Slots of a kept sink are not rewritten, and hide the frames that would lie there.
        seen_from = len(kept)
        self.note(frames, 0.0)
        stored = [frame if i >= seen_from else -1 for i, frame in enumerate(frames)]
        self.network.run(
            torch.cat([self.latents[f] for f in frames], 1),
            torch.zeros(1, len(frames)),
            context,
            frames,
            lambda _, key: key >= seen_from,
            cached=[(f, f) for f in kept],
            store=stored,
        )

    def cache(self, layer: int) -> tuple[Tensor, Tensor]:
        """Rotated keys and values of the window, zero where it is not full."""
        pairs = [self.network.cache[layer][f] for f in self.held]
        k = [self.network.rotate(key, f) for (key, _), f in zip(pairs, self.held, strict=True)]
        empty = [torch.zeros_like(k[0])] * (self.window - len(k))
        return torch.cat(k + empty, 1), torch.cat([v for _, v in pairs] + empty, 1)

    def facts(self) -> dict[str, Any]:
        """Return what both kinds of ``cases.json`` say."""
        return {
            "num_frames": len(self.latents),
            "latent_hw": list(self.network.sizes.latent_hw),
            "num_frame_per_block": self.chunk,
            "local_attn_size": self.window,
            "sink_size": self.sink,
            "timestep_shift": SHIFT,
            "timesteps": self.timesteps,
            "context_noise": 0,
            "passes": self.passes,
        }


def _inputs(network: Reference, frames: int, prompts: int, g: torch.Generator) -> dict[str, Tensor]:
    sizes = network.sizes
    return {
        "noise": torch.randn(1, frames, 16, *sizes.latent_hw, generator=g),
        "prompt_embeds": torch.randn(prompts, sizes.text_len, sizes.text_dim, generator=g),
    }


def _rollouts(folder: Path, network: Reference, generator: torch.Generator) -> None:
    cases = {}
    for name, (window, sink, chunk, chunks) in {
        "local8_sink2_chunk2": (8, 2, 2, 6),
        "local3_sink1_framewise": (3, 1, 1, 6),
    }.items():
        stream = _Stream(network, window, sink, chunk)
        tensors = _inputs(network, chunk * chunks, 1, generator)
        for index in range(chunks):
            stream.make_chunk(index, tensors, tensors["prompt_embeds"], generator)
        tensors["latents"] = torch.cat(stream.latents, 1)
        layer = network.sizes.num_layers - 1
        for part, value in zip("kv", stream.cache(layer), strict=True):
            tensors[f"final_cache.{layer}.{part}"] = value
        cases[name] = {
            **stream.facts(),
            "B": 1,
            "denoising_step_list": list(STEPS),
            "warp_denoising_step": True,
            "independent_first_frame": False,
            "initial_frames": 0,
            "frame_seq_length": stream.tokens,
            "kv_cache_tokens": window * stream.tokens,
            "sigmas": stream.sigmas,
            "final_global_end": chunk * chunks * stream.tokens,
            "final_local_end": len(stream.held) * stream.tokens,
        }
        _save(folder, name, tensors)
    (folder / "cases.json").write_text(json.dumps(cases))


def _longlive(folder: Path, network: Reference, generator: torch.Generator) -> None:
    cases = {}
    layer, chunk, chunks, window, sink = network.sizes.num_layers - 1, 2, 6, 6, 2
    for name, switches, global_sink in (
        ("switch_global_sink", [8], True),
        ("switch_no_global_sink", [8], False),
        ("early_switch_global_sink", [4], True),
        ("two_switches", [4, 10], True),
    ):
        stream = _Stream(network, window, sink, chunk)
        tensors = _inputs(network, chunk * chunks, 1 + len(switches), generator)
        segment = 0
        for index in range(chunks):
            if index * chunk in switches:
                segment += 1
                stream.recache(tensors["prompt_embeds"][segment : segment + 1], global_sink)
                for part, value in zip("kv", stream.cache(layer), strict=True):
                    key = f"cache_after_recache.frame{index * chunk:03d}.{layer}.{part}"
                    tensors[key] = value
            context = tensors["prompt_embeds"][segment : segment + 1]
            stream.make_chunk(index, tensors, context, generator)
        tensors["latents"] = torch.cat(stream.latents, 1)
        cases[name] = {
            **stream.facts(),
            "global_sink": global_sink,
            "switch_frame_indices": switches,
        }
        _save(folder, name, tensors)
    stream = _Stream(network, window, sink, chunk, relative=True)
    tensors = _inputs(network, chunk * chunks, 1, generator)
    for index in range(chunks):
        stream.make_chunk(index, tensors, tensors["prompt_embeds"], generator)
    tensors["latents"] = torch.cat(stream.latents, 1)
    facts = stream.facts()
    del facts["passes"]
    cases["relative_rope_sink2"] = {**facts, "relative_rope": True}
    _save(folder, "relative_rope_sink2", tensors)
    (folder / "cases.json").write_text(json.dumps(cases))


def _krea(folder: Path, network: Reference, generator: torch.Generator) -> None:
    chunk, contexts = 2, (2, 4)
    timesteps, sigmas = _levels()
    tensors = _inputs(network, 1, 1, generator)
    del tensors["noise"]
    prompt, hw = tensors["prompt_embeds"], network.sizes.latent_hw
    for context in contexts:
        name = f"ctx{context}"
        network.cache = [{} for _ in network.cache]
        clean = torch.randn(1, context, 16, *hw, generator=generator)
        noisy = torch.randn(1, chunk, 16, *hw, generator=generator)
        tensors |= {f"{name}.context_latents": clean, f"{name}.noisy": noisy}
        network.run(
            clean,
            torch.zeros(1, context),
            prompt,
            range(context),
            lambda q, k: k // 2 <= q // 2,
            store=range(context),
        )
        for layer, frames in enumerate(network.cache):
            pairs = [frames[f] for f in range(context)]
            keys = [network.rotate(key, f) for f, (key, _) in enumerate(pairs)]
            tensors[f"{name}.cache.{layer}.k"] = torch.cat(keys, 1)
            tensors[f"{name}.cache.{layer}.v"] = torch.cat([v for _, v in pairs], 1)
        for t, sigma in zip(timesteps, sigmas, strict=True):
            flow = network.run(
                noisy,
                torch.full((1, chunk), t),
                prompt,
                range(context, context + chunk),
                _everything,
                cached=[(f, f) for f in range(context)],
            )
            tensors[f"{name}.flow.t{t:g}"] = flow
            tensors[f"{name}.x0.t{t:g}"] = noisy.double() - sigma * flow
    _save(folder, "recompute", tensors)
    facts = {
        "latent_hw": list(hw),
        "num_frame_per_block": chunk,
        "context_frames": list(contexts),
        "context_timestep": 0,
        "timesteps": timesteps,
        "timestep_shift": SHIFT,
    }
    (folder / "cases.json").write_text(json.dumps(facts))


@torch.inference_mode()
def make_folder(folder: Path, sizes: Sizes, i2v: Sizes, seed: int) -> None:
    """Write every group that has a transformer, with a manifest."""
    generator = torch.Generator().manual_seed(seed)
    network = _network(folder / "transformer", sizes, generator)
    _forward(folder / "forward", network, generator)
    _i2v(folder / "i2v", _network(folder / "i2v", i2v, generator), generator)
    _rollouts(folder / "rollouts", network, generator)
    _longlive(folder / "longlive", network, generator)
    _krea(folder / "krea", network, generator)
    write_manifest(folder)
