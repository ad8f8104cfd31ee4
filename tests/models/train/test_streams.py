from itertools import count

import torch

from models.train.streams import StreamBatch, StreamStore
from models.train.windows import Prompts

CPU = torch.device("cpu")


def group(number: int, switch: int | None) -> StreamBatch:
    value = torch.arange(3).float() + 10 * number
    ids = torch.full((3, 2, 4), number)
    return StreamBatch(
        latents=value.view(3, 1, 1, 1, 1),
        cover=value.view(3, 1, 1, 1),
        prompts=Prompts(ids, torch.ones_like(ids)),
        switch=switch,
    )


def test_every_batch_is_of_one_group_and_rows_stay_together() -> None:
    numbers = count()
    store = StreamStore(3, lambda: group(number := next(numbers), number % 3 or None))
    for _ in range(3):
        store.refresh()
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(40):
        batch = store.sample(5, generator)
        (number,) = set(batch.prompts.ids.flatten().tolist())
        assert batch.switch == (number % 3 or None)
        assert torch.equal(batch.latents.flatten(), batch.cover.flatten())
        assert (batch.latents // 10 == number).all()
        seen.add(number)
    assert seen == {0, 1, 2}


def test_the_oldest_group_makes_room() -> None:
    numbers = count()
    store = StreamStore(2, lambda: group(next(numbers), None))
    for _ in range(5):
        store.refresh()
    generator = torch.Generator().manual_seed(1)
    seen = {int(store.sample(1, generator).prompts.ids[0, 0, 0]) for _ in range(30)}
    assert seen == {3, 4}


def test_an_empty_store_makes_what_it_deals() -> None:
    batch = StreamStore(2, lambda: group(7, 1)).sample(4, torch.Generator(CPU))
    assert batch.latents.shape == (4, 1, 1, 1, 1)
    assert batch.switch == 1
