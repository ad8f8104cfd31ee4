import pytest

from kernels.attention_tiles import choose_tiles


@pytest.mark.parametrize(
    ("queries", "heads", "rows"), [(4680, 12, 1), (4680, 12, 2), (180, 6, 1), (4680, 40, 1)]
)
def test_keys_are_split_only_where_that_fills_the_last_wave(
    queries: int, heads: int, rows: int
) -> None:
    tiles = choose_tiles(
        queries=queries, heads=heads, rows=rows, head_dim=128, wide=False, processors=132,
        shared=232_448, descriptor=False,
    )  # fmt: skip
    programs = -(-queries // tiles.queries) * heads * rows

    def fill(splits: int) -> float:
        return programs * splits / 132 / -(-programs * splits // 132)

    assert fill(tiles.splits) >= fill(1)
    assert tiles.splits == 1 or fill(tiles.splits) > fill(1) + 0.03


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize(
    ("name", "shared"), [("H200", 232_448), ("A100", 166_912), ("RTX 4090", 101_376)]
)
def test_tiles_fit_into_the_shared_memory_of_the_device(
    name: str, shared: int, head_dim: int
) -> None:
    tiles = choose_tiles(
        queries=4680, heads=12, rows=1, head_dim=head_dim, wide=False, processors=108,
        shared=shared, descriptor=name == "H200",
    )  # fmt: skip
    assert tiles.shared_bytes(head_dim) <= shared
    if name == "H200" and head_dim <= 128:
        assert (tiles.queries, tiles.keys, tiles.stages) == (128, 128, 3)
