"""UMT5: reference numbers, padding that changes nothing, joint training."""

from pathlib import Path

import pytest
import torch

from models.text_encoder import UMT5, TextEncoder, TextEncoderConfig
from models.tokenizer import ByteTokenizer, token_ids
from tests.parity import t5 as parity

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = TextEncoderConfig(
    vocab_size=259, dim=16, dim_attn=24, dim_ffn=32, num_heads=3, num_layers=2, text_len=20
)


@pytest.fixture
def text():
    network = UMT5(SMALL)
    network.init_weights(torch.Generator().manual_seed(0))
    return TextEncoder(network, ByteTokenizer())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_t5_case_equals_the_reference(dtype):
    atol = 5e-5 if dtype == torch.float32 else 0.12
    cases = parity.run(GOLDEN, dtype)
    assert set(cases) == {"t5/encode.hidden", "t5/encode.embeddings", "t5/encode.buckets"}
    for pairs in cases.values():
        for ours, reference in pairs.values():
            if reference.is_floating_point():
                torch.testing.assert_close(ours.float(), reference, atol=atol, rtol=0)
            else:
                assert torch.equal(ours, reference)


@torch.inference_mode()
def test_an_embedding_is_zero_beyond_its_prompt_and_independent_of_the_batch(text):
    both = text.encode(["red", "a much longer prompt than the row can hold"])
    alone = text.encode(["red"])
    assert both.shape == (2, 20, 16)
    torch.testing.assert_close(both[:1], alone, atol=1e-6, rtol=1e-5)
    assert both[0, 4:].abs().max() == 0  # three bytes and the end mark
    assert both[1].abs().sum(-1).min() > 0


@torch.inference_mode()
def test_trimmed_padding_gives_the_embedding_of_the_full_row(text):
    ids, mask = token_ids(text.tokenizer, ["red", "blue"], 20)
    torch.testing.assert_close(
        text.network(ids, mask), text.encode(["red", "blue"]), atol=1e-6, rtol=1e-5
    )


def test_gradients_reach_every_weight_of_the_encoder(text):
    text.encode(["red ball", "blue"]).square().sum().backward()
    assert [n for n, p in text.network.named_parameters() if p.grad is None] == []


def test_a_tokenizer_of_another_model_is_refused():
    small = UMT5(TextEncoderConfig(100, 16, 16, 32, 2, 1, 20))
    with pytest.raises(ValueError, match="259 tokens, the text encoder 100"):
        TextEncoder(small, ByteTokenizer())


def test_the_full_encoder_has_its_published_size():
    with torch.device("meta"):
        full = UMT5(TextEncoderConfig())
    assert sum(p.numel() for p in full.parameters()) == pytest.approx(5.68e9, rel=1e-3)
