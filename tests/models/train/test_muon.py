import torch
from torch import nn

from models.train.muon import Muon, orthogonalised


def test_the_singular_values_of_a_step_are_near_one() -> None:
    matrices = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrices, torch.float32))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_tall_and_wide_matrices_are_treated_alike() -> None:
    matrix = torch.randn(16, 30, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        orthogonalised(matrix, torch.float32), orthogonalised(matrix.mT, torch.float32).mT
    )


def test_in_bfloat16_it_takes_the_steps_of_torch_s_own() -> None:
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(8, 12, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    mine = Muon([ours], 0.02, weight_decay=0.1, dtype=torch.bfloat16)
    reference = torch.optim.Muon(
        [theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(4):
        gradient = torch.randn(8, 12, generator=generator)
        for parameter, optimiser in ((ours, mine), (theirs, reference)):
            parameter.grad = gradient.clone()
            optimiser.step()
    moved = (theirs - start).abs().max()
    assert (ours - theirs).abs().max() < 0.05 * moved


def test_matrices_of_one_shape_step_as_if_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    starts = torch.randn(2, 6, 6, generator=generator)
    gradients = torch.randn(2, 6, 6, generator=generator)
    together = [nn.Parameter(start.clone()) for start in starts]
    alone = [nn.Parameter(start.clone()) for start in starts]
    for parameter, gradient in zip((*together, *alone), (*gradients, *gradients), strict=True):
        parameter.grad = gradient.clone()
    Muon(together, 0.01).step()
    for parameter in alone:
        Muon([parameter], 0.01).step()
    for first, second in zip(together, alone, strict=True):
        torch.testing.assert_close(first, second)
