"""Names of a Wan transformer's parameters as diffusers writes them.

The project's own names are those of the original release. diffusers' ``WanTransformer3DModel``
renames every one of them; the two tables here are the whole difference. The module knows nothing
of files or tensors.
"""

import re

__all__ = ["BLOCK", "TOP", "from_diffusers"]

TOP = {
    "patch_embedding": "patch_embedding",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
    "proj_out": "head.head",
    "scale_shift_table": "head.modulation",
}
"""Modules outside the blocks: diffusers' name to the original one."""

BLOCK = {
    "scale_shift_table": "modulation",
    "norm2": "norm3",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    **{
        f"{theirs}.{renamed}": f"{ours}_attn.{part}"
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
    "attn2.add_k_proj": "cross_attn.k_img",
    "attn2.add_v_proj": "cross_attn.v_img",
    "attn2.norm_added_k": "cross_attn.norm_k_img",
}
"""The same inside a block. The affine norm before cross-attention is the third of the original
and the second of diffusers."""


def from_diffusers(name: str) -> str | None:
    """Translate a diffusers parameter name; None when it is not one of this network's."""
    inside = re.fullmatch(r"(blocks\.\d+\.)(.+)", name)
    start, rest, table = (inside[1], inside[2], BLOCK) if inside else ("", name, TOP)
    module, dot, leaf = rest.rpartition(".")
    if leaf not in ("weight", "bias"):
        module, dot, leaf = rest, "", ""  # a parameter with no module of its own
    renamed = table.get(module)
    return None if renamed is None else start + renamed + dot + leaf
