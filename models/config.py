"""The sizes of a causal Wan transformer, as one frozen value.

It knows neither file formats (``models/names.py``) nor what a checkpoint was trained for
(``models/policy.py``, ``models/sampler.py``).
"""

from dataclasses import dataclass

__all__ = ["TransformerConfig"]


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Widths and counts of the network.

    Attributes:
        dim: width of a token (d).
        ffn_dim: inner width of the feed-forward layers.
        num_heads: attention heads (N); ``dim / num_heads`` is the head size D.
        num_layers: blocks (L).
        in_channels: latent channels going in; image-to-video adds mask and image channels.
        out_channels: latent channels coming out.
        text_dim: width of a prompt embedding.
        text_len: rows of a prompt embedding (P), padding included.
        freq_dim: width of the sinusoid of the timestep.
        patch: latent frames, rows and columns that make one token.
        eps: of every norm.
        image_dim: width of the image tokens; None when the network takes none.
        placed: whether every token is told its row and column. Wan's networks are not: they
            find it out from the picture that shows through the noise, over many steps.
        frame_places: latent frames of a chunk, each of which has a learned vector that tells its tokens
            its place in the chunk; passes then begin at a chunk's first frame. 0 for none: relative
            positions tell frames apart only by what they show, and at full noise they show nothing.
        predicts_x0: whether the last layer says what the clean latents are, and the flow follows
            from that (Li and He 2025, arXiv:2511.13720). A token of a large patch then need not
            carry the noise of all its latents through a narrow network.
    """

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    text_len: int = 512
    freq_dim: int = 256
    patch: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6
    image_dim: int | None = None
    placed: bool = False
    frame_places: int = 0
    predicts_x0: bool = False

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or self.head_dim % 2:
            raise ValueError(
                f"dim {self.dim} with {self.num_heads} heads; the width must divide into heads of "
                "an even size; change dim or num_heads"
            )
        if self.patch[0] != 1:
            raise ValueError(
                f"patch {self.patch}; a token belongs to one latent frame; use (1, rows, columns)"
            )
        if self.placed and self.dim % 4:
            raise ValueError(
                f"dim {self.dim} of a placed network; rows and columns each take sines and cosines; "
                "use a multiple of 4"
            )
        if self.freq_dim % 2:
            raise ValueError(f"freq_dim {self.freq_dim}; it must be even")

    @property
    def head_dim(self) -> int:
        """Elements of one head (D)."""
        return self.dim // self.num_heads

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Tokens in height and width of a latent frame of ``height x width``.

        Raises:
            ValueError: the latent does not divide into patches.
        """
        _, rows, columns = self.patch
        if height % rows or width % columns:
            raise ValueError(
                f"latent of {height}x{width}; height must be a multiple of {rows} and width of "
                f"{columns}; choose a size in pixels that divides by {8 * rows} and {8 * columns}"
            )
        return height // rows, width // columns

    def grid_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """Tokens in height and width of a latent frame of pictures of (width, height) pixels.

        Raises:
            ValueError: as ``grid``.
        """
        width, height = size
        return self.grid(height // 8, width // 8)
