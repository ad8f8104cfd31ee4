"""Noise is a function of its place, and its values never change."""

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import noise as module
from models.noise import MAX_SEED, noise


def test_the_golden_values_never_change():
    assert noise(0, 0, 0, (8,)).tolist() == [
        2.916203260421753,
        -1.2855403423309326,
        -1.3901572227478027,
        0.4133015275001526,
        0.6468852758407593,
        -1.0902982950210571,
        1.567244291305542,
        0.9864654541015625,
    ]
    assert noise(MAX_SEED, 7, 3, (5,)).tolist() == [
        0.02016264945268631,
        -0.32980895042419434,
        0.7266175746917725,
        -0.7845885157585144,
        0.530579149723053,
    ]
    digest = hashlib.sha256(noise(42, 5, 2, (3, 16, 60, 104)).numpy().astype("<f4").tobytes())
    assert digest.hexdigest() == (
        "f1b974676c158b61aa1d6d74b14574b98fa6e22964f5538bb849c4b9b5885b4a"
    )


def test_the_raw_bits_are_those_of_the_published_philox():
    """The known answer of Random123's philox4x64-10 for counter 0 and key 0."""
    # numpy counts up before it draws, so the counter that is one short of 0 gives counter 0.
    bits = np.random.Philox(key=0, counter=[2**64 - 1] * 4).random_raw(4)
    assert [f"{int(word):016x}" for word in bits] == [
        "16554d9eca36314c",
        "db20fe9d672d0fdc",
        "d7e772cee186176b",
        "7e68b68aec7ba23b",
    ]


@given(st.integers(0, MAX_SEED), st.integers(0, 10**6), st.integers(0, 50))
def test_a_draw_depends_on_its_place_alone(seed, chunk, step):
    shape = (2, 3, 2, 2)
    first = noise(seed, chunk, step, shape)
    noise(seed // 2, chunk + 3, step, shape)
    assert torch.equal(noise(seed, chunk, step, shape), first)
    assert not torch.equal(noise(seed, chunk + 1, step, shape), first)
    assert not torch.equal(noise(seed, chunk, step + 1, shape), first)
    assert not torch.equal(noise((seed + 1) % (MAX_SEED + 1), chunk, step, shape), first)


def test_places_do_not_overlap():
    """The blocks of one draw are not the blocks of another, however long it is."""
    drawn = [noise(1, chunk, step, (20000,)) for chunk in range(3) for step in range(3)]
    values = torch.stack(drawn)
    correlation = torch.corrcoef(values) - torch.eye(9)
    assert correlation.abs().max() < 0.04
    assert len(set(values[:, 0].tolist())) == 9


def test_values_are_standard_normal():
    x = noise(3, 1, 4, (400_000,)).double()
    assert abs(x.mean()) < 0.01
    assert abs(x.std() - 1) < 0.01
    assert abs((x**3).mean()) < 0.03
    assert abs((x**4).mean() - 3) < 0.05
    for bound in (0.5, 1.0, 2.0, 3.0):
        expected = math.erf(bound / math.sqrt(2))
        assert abs((x.abs() < bound).double().mean() - expected) < 0.003


def test_the_polynomials_equal_the_mathematics_library():
    u = (np.arange(1, 200_000) - 0.5) / 200_000
    assert np.abs(module._log(u) - np.log(u)).max() < 1e-11
    cos, sin = module._circle(u)
    assert np.abs(cos - np.cos(2 * np.pi * u)).max() < 1e-11
    assert np.abs(sin - np.sin(2 * np.pi * u)).max() < 1e-11
    assert np.isfinite(module._log(np.array([2.0**-32, 1.0]))).all()


@pytest.mark.parametrize("shape", [(1,), (3, 16, 4, 6), (4096 * 2 + 3,)])
def test_any_shape_is_float32_on_the_cpu(shape):
    x = noise(9, 0, 0, shape)
    assert x.shape == shape
    assert x.dtype == torch.float32
    assert x.device.type == "cpu"
    assert x.is_contiguous()


@pytest.mark.parametrize("seed", [-1, 2**53])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match="seeds are whole numbers"):
        noise(seed, 0, 0, (1,))
