"""Writers of every on-disk format the loader takes, filled from small random modules."""

import dataclasses
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from models.config import TransformerConfig
from models.entry import Codec, ModelEntry, RemoteFile
from models.registry import find
from models.taehv import Taehv, TaehvConfig
from models.text_encoder import UMT5, TextEncoderConfig
from models.tokenizer import train_tokenizer
from models.transformer import CausalWan
from models.vae import VaeConfig, WanVae
from tests.models.diffusers_names import to_diffusers

CORPUS = ["a red ball rolls left", "the blue cat jumps right", "a green box turns slowly"] * 4
SMALL = TransformerConfig(
    dim=32, ffn_dim=48, num_heads=2, num_layers=2, text_dim=16, text_len=12, freq_dim=16
)
SMALL_TEXT = TextEncoderConfig(
    vocab_size=512, dim=16, dim_attn=16, dim_ffn=24, num_heads=2, num_layers=2, text_len=12
)
SMALL_TAEHV = TaehvConfig((8, 6, 4, 4), encoder_width=4)
SMALL_VAE = VaeConfig(dim=4)


def shrunk(name: str, *, lora: bool = True) -> ModelEntry:
    """The registry's entry with its real files and keys, at widths that fit in a test."""
    entry = find(name)
    codecs = tuple(
        Codec(
            codec.name,
            SMALL_VAE if isinstance(codec.config, VaeConfig) else SMALL_TAEHV,
            codec.checkpoint,
        )
        for codec in entry.codecs
    )
    return dataclasses.replace(
        entry,
        transformer=SMALL,
        text=SMALL_TEXT,
        codecs=codecs,
        lora=entry.lora if lora else None,
        sizes=((64, 32),),
    )


def filled(module: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Random weights for every tensor of ``module``, rounded to bfloat16, as float32."""
    g = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(tensor.shape, generator=g) * 0.2).bfloat16().float()
        for name, tensor in module.state_dict().items()
    }


def transformer_weights(seed: int = 1) -> dict[str, torch.Tensor]:
    return filled(CausalWan(SMALL), seed)


def text_weights(seed: int = 2) -> dict[str, torch.Tensor]:
    return filled(UMT5(SMALL_TEXT), seed)


def taehv_weights(seed: int = 3) -> dict[str, torch.Tensor]:
    return filled(Taehv(SMALL_TAEHV), seed)


def vae_weights(seed: int = 4) -> dict[str, torch.Tensor]:
    return filled(WanVae(SMALL_VAE), seed)


def place(file: RemoteFile, cache: Path) -> Path:
    """Return the path of ``file`` in the cache, with its folder made."""
    path = file.local(cache)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_shared_parts(entry: ModelEntry, cache: Path) -> None:
    """Write text encoder, tokenizer and both codecs as the Wan and TAEHV repositories have them."""
    assert entry.text_checkpoint is not None
    assert entry.tokenizer is not None
    text = {name: tensor.bfloat16() for name, tensor in text_weights().items()}
    torch.save(text, place(entry.text_checkpoint.file, cache))
    place(entry.tokenizer, cache).write_bytes(train_tokenizer(CORPUS, 400))
    for codec in entry.codecs:
        assert codec.checkpoint is not None
        path = place(codec.checkpoint.file, cache)
        if codec.name == "taehv":
            save_file(taehv_weights(), path)
        else:
            torch.save(vae_weights(), path)


def wrapped(weights: dict[str, torch.Tensor], style: str) -> dict[str, torch.Tensor]:
    """Rename ``weights`` as a trainer's wrappers do."""
    if style == "plain":
        return weights
    if style == "model":
        return {f"model.{name}": tensor for name, tensor in weights.items()}
    assert style == "fsdp"
    renamed = {}
    for name, tensor in weights.items():
        inner = name.replace(
            "blocks.0.", "blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module."
        )
        inner = inner.replace("blocks.1.", "blocks.1._fsdp_wrapped_module._orig_mod.")
        renamed[f"model._fsdp_wrapped_module.{inner}"] = tensor
    return renamed


def lora_pair(
    weights: dict[str, torch.Tensor], rank: int, seed: int = 9
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A PEFT state dict on every linear inside the blocks, and the weights it should give.

    The result is computed with alpha 256, in float64.
    """
    g = torch.Generator().manual_seed(seed)
    peft, merged = {}, dict(weights)
    for name, tensor in weights.items():
        inside = name.startswith("blocks.") and name.endswith(".weight") and tensor.dim() == 2
        if not inside or "norm" in name:
            continue
        a = torch.randn(rank, tensor.shape[1], generator=g) * 0.01
        b = torch.randn(tensor.shape[0], rank, generator=g) * 0.01
        stem = f"base_model.model.model.{name.removesuffix('.weight')}"
        peft[f"{stem}.lora_A.weight"], peft[f"{stem}.lora_B.weight"] = a, b
        merged[name] = (tensor.double() + 256 / rank * (b.double() @ a.double())).float()
    return peft, merged


def write_sharded(weights: dict[str, torch.Tensor], folder: Path, stem: str, shards: int) -> None:
    """Write ``weights`` as numbered safetensors with an index, as the hub's libraries do."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(weights)
    weight_map = {}
    for i in range(shards):
        file = f"{stem}-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name].contiguous() for name in names[i::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def write_diffusers_folder(folder: Path) -> None:
    """Write transformer, VAE, UMT5 and tokenizer as a diffusers pipeline folder."""
    transformer = {to_diffusers(name): tensor for name, tensor in transformer_weights(21).items()}
    write_sharded(transformer, folder / "transformer", "diffusion_pytorch_model", 2)
    text = {_umt5_to_transformers(name): tensor for name, tensor in text_weights(22).items()}
    text["encoder.embed_tokens.weight"] = text["shared.weight"]
    write_sharded(
        {name: tensor.clone() for name, tensor in text.items()}, folder / "text_encoder", "model", 5
    )
    (folder / "vae").mkdir()
    vae = {_vae_to_diffusers(name): tensor for name, tensor in vae_weights(23).items()}
    save_file(vae, folder / "vae" / "diffusion_pytorch_model.safetensors")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "spiece.model").write_bytes(train_tokenizer(CORPUS, 400))
    (folder / "model_index.json").write_text("{}")


def _umt5_to_transformers(name: str) -> str:
    if name == "token_embedding.weight":
        return "shared.weight"
    if name == "norm.weight":
        return "encoder.final_layer_norm.weight"
    _, index, rest = name.split(".", 2)
    for ours, theirs in (
        ("norm1", "layer.0.layer_norm"),
        ("norm2", "layer.1.layer_norm"),
        ("pos_embedding.embedding", "layer.0.SelfAttention.relative_attention_bias"),
        ("attn.", "layer.0.SelfAttention."),
        ("ffn.gate.0", "layer.1.DenseReluDense.wi_0"),
        ("ffn.fc1", "layer.1.DenseReluDense.wi_1"),
        ("ffn.fc2", "layer.1.DenseReluDense.wo"),
    ):
        if rest.startswith(ours):
            return f"encoder.block.{index}.{theirs}{rest[len(ours) :]}"
    raise AssertionError(name)


def _vae_to_diffusers(name: str) -> str:
    if name.startswith("conv1."):
        return "quant_" + name.replace("conv1.", "conv.")
    if name.startswith("conv2."):
        return "post_quant_" + name.replace("conv2.", "conv.")
    half, rest = name.split(".", 1)
    for ours, theirs in (
        ("conv1.", "conv_in."),
        ("head.0.", "norm_out."),
        ("head.2.", "conv_out."),
        ("middle.0.", "mid_block.resnets.0."),
        ("middle.1.", "mid_block.attentions.0."),
        ("middle.2.", "mid_block.resnets.1."),
        ("downsamples.", "down_blocks."),
    ):
        if rest.startswith(ours):
            rest = theirs + rest[len(ours) :]
            break
    if rest.startswith("upsamples."):
        _, index, tail = rest.split(".", 2)
        block, place_ = divmod(int(index), 4)
        inner = "upsamplers.0" if place_ == 3 else f"resnets.{place_}"
        rest = f"up_blocks.{block}.{inner}.{tail}"
    for ours, theirs in (
        ("residual.0.", "norm1."),
        ("residual.2.", "conv1."),
        ("residual.3.", "norm2."),
        ("residual.6.", "conv2."),
        ("shortcut.", "conv_shortcut."),
    ):
        rest = rest.replace(ours, theirs)
    return f"{half}.{rest}"
