"""Names of parameters and settings in the formats that Wan transformers come in.

The project's own names are those of the original release. diffusers' ``WanTransformer3DModel``
renames every one of them; the two tables here are the whole difference, and both directions are
computed from them. The module knows nothing of files or tensors.
"""

import re
from collections.abc import Mapping
from typing import Any

from models.config import TransformerConfig

__all__ = ["config_from_diffusers", "config_from_wan", "from_diffusers", "to_diffusers"]

# Outside the blocks, original prefix to diffusers prefix.
_TOP = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}

# Inside a block. The affine norm before cross-attention is the third of the original and the
# second of diffusers.
_BLOCK = {
    "modulation": "scale_shift_table",
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    **{
        f"{ours}_attn.{part}": f"{theirs}.{renamed}"
        for ours, theirs in (("self", "attn1"), ("cross", "attn2"))
        for part, renamed in {
            "q": "to_q",
            "k": "to_k",
            "v": "to_v",
            "o": "to_out.0",
            "norm_q": "norm_q",
            "norm_k": "norm_k",
        }.items()
    },
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "cross_attn.norm_k_img": "attn2.norm_added_k",
}

_TOP_BACK = {theirs: ours for ours, theirs in _TOP.items()}
_BLOCK_BACK = {theirs: ours for ours, theirs in _BLOCK.items()}


def _rename(name: str, top: Mapping[str, str], block: Mapping[str, str]) -> str | None:
    inside = re.fullmatch(r"(blocks\.\d+\.)(.+)", name)
    start, rest, table = (inside[1], inside[2], block) if inside else ("", name, top)
    module, dot, leaf = rest.rpartition(".")
    if leaf not in ("weight", "bias"):
        module, dot, leaf = rest, "", ""  # a parameter with no module of its own
    renamed = table.get(module)
    return None if renamed is None else start + renamed + dot + leaf


def to_diffusers(name: str) -> str | None:
    """Translate an original parameter name; None when it is not one of this network's."""
    return _rename(name, _TOP, _BLOCK)


def from_diffusers(name: str) -> str | None:
    """Translate a diffusers parameter name; None when it is not one of this network's."""
    return _rename(name, _TOP_BACK, _BLOCK_BACK)


def config_from_wan(raw: Mapping[str, Any]) -> TransformerConfig:
    """Read the ``config.json`` of an original Wan release.

    Raises:
        ValueError: a setting that every model of the family shares has another value.
    """
    for key in ("qk_norm", "cross_attn_norm"):
        if not raw.get(key, True):
            raise ValueError(f"{key} is false; this network always has it; use another model")
    image = raw.get("model_type", "t2v") == "i2v"
    return TransformerConfig(
        dim=raw["dim"],
        ffn_dim=raw["ffn_dim"],
        num_heads=raw["num_heads"],
        num_layers=raw["num_layers"],
        in_channels=raw.get("in_dim", 16),
        out_channels=raw.get("out_dim", 16),
        text_dim=raw.get("text_dim", 4096),
        text_len=raw.get("text_len", 512),
        freq_dim=raw.get("freq_dim", 256),
        patch=_patch(raw.get("patch_size", (1, 2, 2))),
        eps=raw.get("eps", 1e-6),
        image_dim=raw.get("clip_dim", 1280) if image else None,
    )


def config_from_diffusers(raw: Mapping[str, Any], text_len: int = 512) -> TransformerConfig:
    """Read the ``transformer/config.json`` of a diffusers folder, which leaves out ``text_len``.

    Raises:
        ValueError: a setting that every model of the family shares has another value.
    """
    for key, shared in (("qk_norm", "rms_norm_across_heads"), ("cross_attn_norm", True)):
        if raw.get(key, shared) != shared:
            raise ValueError(f"{key} is {raw[key]!r}; only {shared!r} is known; use another model")
    if raw.get("pos_embed_seq_len") is not None:
        raise ValueError(
            f"pos_embed_seq_len is {raw['pos_embed_seq_len']}; image tokens with positions of "
            "their own are not known here; use another model"
        )
    return TransformerConfig(
        dim=raw["num_attention_heads"] * raw["attention_head_dim"],
        ffn_dim=raw["ffn_dim"],
        num_heads=raw["num_attention_heads"],
        num_layers=raw["num_layers"],
        in_channels=raw["in_channels"],
        out_channels=raw["out_channels"],
        text_dim=raw["text_dim"],
        text_len=text_len,
        freq_dim=raw["freq_dim"],
        patch=_patch(raw["patch_size"]),
        eps=raw["eps"],
        image_dim=raw.get("image_dim"),
    )


def _patch(size: Any) -> tuple[int, int, int]:
    time, height, width = size
    return int(time), int(height), int(width)
