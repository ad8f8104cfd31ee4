"""The network as training sees it: a causal transformer and the text encoder that learns with it.

One call denoises whole windows of four chunks, block-causal (diffusion forcing, Chen et al. 2024,
arXiv:2407.01392) or bidirectional (the teacher's score of a whole window). Positions are counted
inside the window. Knows nothing of losses or schedules.
"""

import torch
from torch import Tensor, nn

from models import masks
from models.dense_kv import BlockCausalKV
from models.kv import KVView
from models.text_encoder import UMT5
from models.train.lean import ChunkwiseKV, LeanKernels
from models.train.recipe import Recipe
from models.train.windows import CHUNKS
from models.transformer import CausalWan


class Denoiser(nn.Module):
    """A transformer with its text encoder; both are trained together.

    Args:
        recipe: Sizes.
        device: Where the window layout (positions, masks) is kept.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        super().__init__()
        kernels = LeanKernels()
        self.transformer = CausalWan(recipe.transformer, kernels)
        self.text = UMT5(recipe.text)
        self.to(device)
        frames = CHUNKS * recipe.chunk_frames
        positions = torch.arange(frames, device=device)
        starts = masks.chunk_starts(frames, recipe.chunk_frames)
        head_dim = recipe.transformer.head_dim
        self._views: dict[bool, KVView] = {
            True: ChunkwiseKV.of(positions, recipe.grid, head_dim, recipe.chunk_frames, kernels),
            False: BlockCausalKV.of(positions, recipe.grid, head_dim, kernels=kernels),
        }
        self._opening = ChunkwiseKV.of(
            positions[: recipe.chunk_frames], recipe.grid, head_dim, recipe.chunk_frames, kernels
        )
        self._forced = BlockCausalKV.of(
            positions.repeat(2),
            recipe.grid,
            head_dim,
            masks.teacher_forcing(frames, starts, device=device),
            kernels,
        )

    def context(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embed prompts ``[B, P]``; returns ``[B, P, text_dim]``."""
        embedding: Tensor = self.text(ids, mask)
        return embedding

    def velocity(self, latents: Tensor, sigma: Tensor, context: Tensor, *, causal: bool) -> Tensor:
        """Predict ``noise - x0`` of a window.

        Args:
            latents: ``[B, F, C, H, W]`` noisy (or clean) latents of four chunks.
            sigma: ``[B, F]`` noise level of each latent frame, 0 is clean.
            context: ``[B, P, text_dim]``.
            causal: Chunks see only themselves and earlier ones.
        """
        prompt = self.transformer.prompt_kv(context)
        flow: Tensor = self.transformer(latents, 1000.0 * sigma, prompt, self._views[causal])
        return flow

    def opening_velocity(self, latents: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        """Predict the velocity of the first chunk of a stream ``[B, f, C, H, W]``."""
        prompt = self.transformer.prompt_kv(context)
        flow: Tensor = self.transformer(latents, 1000.0 * sigma, prompt, self._opening)
        return flow

    def forced_velocity(
        self, clean: Tensor, noisy: Tensor, sigma: Tensor, context: Tensor
    ) -> Tensor:
        """Predict the velocity of every chunk given the *clean* chunks before it.

        Args:
            clean: ``[B, F, C, H, W]``.
            noisy: the same frames with noise.
            sigma: ``[B, F]`` of the noisy half.
            context: ``[B, P, text_dim]``.

        Returns:
            ``[B, F, C, H, W]`` of the noisy half.
        """
        prompt = self.transformer.prompt_kv(context)
        flow: Tensor = self.transformer(
            torch.cat((clean, noisy), dim=1),
            1000.0 * torch.cat((torch.zeros_like(sigma), sigma), dim=1),
            prompt,
            self._forced,
        )
        return flow[:, clean.shape[1] :]


def per_frame(per_chunk: Tensor, chunk_frames: int) -> Tensor:
    """Spread a value a chunk ``[B, chunks]`` over its latent frames ``[B, F]``."""
    return per_chunk.repeat_interleave(chunk_frames, dim=1)


def shifted(u: Tensor, shift: float) -> Tensor:
    """Noise level of uniform ``u`` in [0, 1] under a timestep shift; 1 stays 1."""
    return shift * u / (1.0 + (shift - 1.0) * u)


def add_noise(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Mix ``[B, F, C, H, W]`` towards noise by ``sigma [B, F]`` on the straight path."""
    level = sigma[:, :, None, None, None]
    return (1.0 - level) * clean + level * noise


def frame_errors(made: Tensor, target: Tensor, cover: Tensor, subject_weight: float) -> Tensor:
    """Mean squared error ``[B, F]`` of each frame of ``[B, F, C, H, W]``.

    The error around the subject, as ``cover [B, F, H, W]`` has it, counts ``1 + subject_weight`` times.
    """
    weight = 1.0 + subject_weight * cover[:, :, None]
    return ((made - target).square() * weight).mean(dim=(2, 3, 4))


def drop_prompts(ids: Tensor, mask: Tensor, drop: Tensor, end_id: int) -> tuple[Tensor, Tensor]:
    """Replace the prompts of rows where ``drop [B]`` is true by the empty prompt."""
    empty = torch.zeros_like(ids)
    empty[:, 0] = end_id
    only_end = torch.zeros_like(mask)
    only_end[:, 0] = 1
    where = drop[:, None]
    return torch.where(where, empty, ids), torch.where(where, only_end, mask)
