"""Random transformers for tests: every parameter matters, so that a missed one shows."""

import torch

from models.config import TransformerConfig
from models.transformer import CausalWan


@torch.no_grad()
def random_transformer(config: TransformerConfig, seed: int) -> CausalWan:
    """Draw weights whose activations neither vanish nor grow; norms are 1 +- 0.1."""
    generator = torch.Generator().manual_seed(seed)
    network = CausalWan(config)
    for name, weight in network.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.dim() == 1 and name.endswith("weight"):
            weight.copy_(1 + 0.1 * noise)
        elif weight.dim() == 1:
            weight.copy_(0.1 * noise)
        elif name.endswith("modulation"):
            weight.copy_(0.25 * noise)
        else:
            weight.copy_(noise / weight[0].numel() ** 0.5)
    return network.eval()
