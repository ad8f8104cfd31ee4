"""Small values the training tests share."""

import torch

from models.train.recipe import Recipe
from models.train.windows import Item, WindowStore


def item(recipe: Recipe, generator: torch.Generator, switches: list[tuple[int, int]]) -> Item:
    """Random latents with the given (start, far) switch chunks, one row each."""
    rows = len(switches)
    height, width = recipe.height // 8, recipe.width // 8

    def latents(frames: int) -> torch.Tensor:
        return torch.randn(rows, frames, 16, height, width, generator=generator)

    length = recipe.text.text_len
    return Item(
        start=latents(12),
        far=latents(9),
        start_cover=torch.rand(rows, 12, height, width, generator=generator),
        far_cover=torch.rand(rows, 9, height, width, generator=generator),
        start_switch=torch.tensor([s for s, _ in switches]),
        far_switch=torch.tensor([f for _, f in switches]),
        text=torch.randint(3, 200, (rows, 2, length), generator=generator),
        text_mask=torch.ones(rows, 2, length, dtype=torch.int64),
    )


def store(recipe: Recipe, switches: list[tuple[int, int]], seed: int = 0) -> WindowStore:
    """A full store of one batch of random items."""
    generator = torch.Generator().manual_seed(seed)
    filled = WindowStore(len(switches), lambda: item(recipe, generator, switches))
    filled.fill(quiet=True)
    return filled
