import torch

from models.train.recipes import smoke
from models.train.windows import WindowStore
from tests.models.train.makers import item, store

RECIPE = smoke()


def test_chunks_before_a_switch_are_given_and_its_prompt_is_the_new_one() -> None:
    filled = store(RECIPE, [(2, 1)])
    generator = torch.Generator().manual_seed(1)
    held = filled._held
    for _ in range(20):
        batch = filled.sample(1, generator)
        assert batch.first.item() >= (1 if batch.is_far.item() else 2)
        assert torch.equal(batch.ids[0], held["text"][0, 1])


def test_a_window_without_a_switch_keeps_the_first_prompt() -> None:
    filled = store(RECIPE, [(0, 0)])
    batch = filled.sample(8, torch.Generator().manual_seed(1))
    assert torch.equal(batch.ids, filled._held["text"][:1, 0].expand(8, -1))
    assert (batch.first <= 1).all()
    assert (batch.first[~batch.is_far] == 0).all()


def test_a_far_window_is_the_sink_followed_by_later_chunks() -> None:
    filled = store(RECIPE, [(0, 0)])
    batch = filled.sample(32, torch.Generator().manual_seed(2))
    start, far = filled._held["start"][0].float(), filled._held["far"][0].float()
    for row in range(32):
        rest = far if batch.is_far[row] else start[3:]
        assert torch.equal(batch.latents[row], torch.cat((start[:3], rest)))


def test_the_ring_keeps_the_newest_items() -> None:
    generator = torch.Generator().manual_seed(3)
    ring = WindowStore(3, lambda: item(RECIPE, generator, [(0, 0), (0, 0)]))
    ring.refresh()
    first = ring._held["start"][0].clone()
    ring.refresh()
    ring.refresh()
    assert len(ring) == 3
    assert ring.made == 6
    assert not any(torch.equal(first, kept) for kept in ring._held["start"])


def test_changed_prompts_come_from_items_that_change() -> None:
    filled = store(RECIPE, [(0, 0), (0, 2)])
    changed = filled.prompts(16, torch.Generator().manual_seed(4), changed=True)
    assert torch.equal(changed.ids, filled._held["text"][1:].expand(16, -1, -1))
    same = filled.prompts(16, torch.Generator().manual_seed(4), changed=False)
    assert torch.equal(same.ids[:, 0], same.ids[:, 1])
