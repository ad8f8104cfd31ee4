"""Attention against naive float64: masks, key biases, both, per row."""

import math

import pytest
import torch

from kernels.attention import attention, reference


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def naive(q, k, v, bias):
    """One query, one head, one row at a time."""
    out = torch.zeros(*q.shape, dtype=torch.float64)
    for b in range(q.shape[0]):
        for n in range(q.shape[2]):
            for t in range(q.shape[1]):
                scores = k[b, :, n].double() @ q[b, t, n].double() / math.sqrt(q.shape[-1])
                weights = (scores + bias[b, t]).softmax(0)
                out[b, t, n] = weights @ v[b, :, n].double()
    return out


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("masked", [None, "bool", "float"])
@pytest.mark.parametrize("biased", [False, True])
def test_attention_equals_naive_softmax(per_row, masked, biased):
    b, t, s, n, d = 2, 5, 7, 3, 8
    q, k, v = draw(b, t, n, d, seed=0), draw(b, s, n, d, seed=1), draw(b, s, n, d, seed=2)
    seen = draw(b, t, s, seed=3) > 0
    seen[..., 0] = True
    addend = draw(b, t, s, seed=4)
    key_bias = draw(b, s, seed=5)
    if not per_row:
        seen, addend, key_bias = seen[0], addend[0], key_bias[0]
    mask = {"bool": seen, "float": addend, None: None}[masked]
    bias = torch.zeros(b, t, s, dtype=torch.float64)
    if masked == "bool":
        bias = bias.masked_fill(~seen, -math.inf)
    elif masked == "float":
        bias = bias + addend
    if biased:
        bias = bias + (key_bias[:, None] if per_row else key_bias)
    expected = naive(q, k, v, bias)
    given_bias = key_bias if biased else None
    torch.testing.assert_close(reference(q, k, v, mask, given_bias), expected)
    ours = attention(q, k, v, mask, given_bias)
    torch.testing.assert_close(ours.double(), expected, atol=1e-6, rtol=1e-5)


def test_the_order_of_keys_does_not_matter():
    q, k, v = draw(1, 4, 2, 8, seed=6), draw(1, 9, 2, 8, seed=7), draw(1, 9, 2, 8, seed=8)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(9))
    torch.testing.assert_close(attention(q, k[:, order], v[:, order]), attention(q, k, v))


def test_gradients_reach_queries_keys_and_values_under_a_mask():
    q, k, v = (draw(1, 6, 2, 8, seed=i).requires_grad_() for i in range(3))
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    attention(q, k, v, mask)[:, :3].sum().backward()
    assert all(x.grad is not None for x in (q, k, v))
    assert v.grad[:, 3:].abs().max() == 0
    assert v.grad[:, :3].abs().min() > 0
