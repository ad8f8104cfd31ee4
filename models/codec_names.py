"""Names of VAE and text encoder parameters as diffusers and transformers write them.

The project's own names are those of the original Wan release. The module knows nothing of
files or tensors; the transformer's names are in ``models/names.py``.
"""

import re

__all__ = ["umt5_from_transformers", "vae_from_diffusers"]

_VAE_TOP = {
    "quant_conv": "conv1",
    "post_quant_conv": "conv2",
    "conv_in": "conv1",
    "norm_out": "head.0",
    "conv_out": "head.2",
    "mid_block.resnets.0": "middle.0",
    "mid_block.attentions.0": "middle.1",
    "mid_block.resnets.1": "middle.2",
}
_VAE_BLOCK = {
    "norm1": "residual.0",
    "conv1": "residual.2",
    "norm2": "residual.3",
    "conv2": "residual.6",
    "conv_shortcut": "shortcut",
}
_UMT5_LAYER = {
    "layer.0.layer_norm": "norm1",
    "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
    "layer.1.layer_norm": "norm2",
    "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
    "layer.1.DenseReluDense.wi_1": "ffn.fc1",
    "layer.1.DenseReluDense.wo": "ffn.fc2",
    **{f"layer.0.SelfAttention.{part}": f"attn.{part}" for part in "qkvo"},
}


def vae_from_diffusers(name: str, blocks: int = 2) -> str | None:
    """Translate a parameter name of diffusers' ``AutoencoderKLWan``.

    Args:
        name: as diffusers writes it.
        blocks: residual blocks a level of the encoder; the decoder has one more.

    Returns:
        The original name; None when it is not one of this network's.
    """
    match = re.fullmatch(r"(encoder\.|decoder\.|)(.+)\.(weight|bias|gamma)", name)
    if match is None:
        return None
    half, module, leaf = match.groups()
    if half == "encoder.":
        module = re.sub(r"^down_blocks\.", "downsamples.", module)
    elif half == "decoder.":
        module = re.sub(
            r"^up_blocks\.(\d+)\.(resnets\.(\d+)|upsamplers\.0)",
            lambda m: f"upsamples.{(blocks + 2) * int(m[1]) + int(m[3] or blocks + 1)}",
            module,
        )
    for theirs, ours in _VAE_TOP.items():
        if module == theirs or module.startswith(theirs + "."):
            module = ours + module[len(theirs) :]
            break
    stem, _, last = module.rpartition(".")
    if stem and last in _VAE_BLOCK:
        module = f"{stem}.{_VAE_BLOCK[last]}"
    return f"{half}{module}.{leaf}"


def umt5_from_transformers(name: str) -> str | None:
    """Translate a parameter name of transformers' ``UMT5EncoderModel``.

    Returns:
        The original name; None when it is not one of this network's.
    """
    if name in ("shared.weight", "encoder.embed_tokens.weight"):
        return "token_embedding.weight"
    if name == "encoder.final_layer_norm.weight":
        return "norm.weight"
    match = re.fullmatch(r"encoder\.block\.(\d+)\.(.+)\.weight", name)
    if match is None or match[2] not in _UMT5_LAYER:
        return None
    return f"blocks.{match[1]}.{_UMT5_LAYER[match[2]]}.weight"
