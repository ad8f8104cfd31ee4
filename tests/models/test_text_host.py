"""The text encoder's host: one embedding per text, bounded, wherever the network lives."""

import pytest
import torch

from models.text_encoder import UMT5, TextEncoder, TextEncoderConfig
from models.text_host import TextEncoderHost
from models.tokenizer import ByteTokenizer

SMALL = TextEncoderConfig(
    vocab_size=259, dim=16, dim_attn=16, dim_ffn=24, num_heads=2, num_layers=1, text_len=12
)
CPU = torch.device("cpu")


class Counting(TextEncoder):
    """Counts the texts that reach the network."""

    seen = 0

    def encode_row(self, text):
        self.seen += 1
        assert not torch.is_grad_enabled()
        return super().encode_row(text)


def make(**options):
    network = UMT5(SMALL)
    network.init_weights(torch.Generator().manual_seed(0))
    encoder = Counting(network, ByteTokenizer())
    return TextEncoderHost(encoder, device=CPU, dtype=torch.float32, **options), encoder


def test_sessions_with_the_same_words_share_one_embedding():
    host, encoder = make()
    first = host.encode(["a red  ball", "blue"])
    again = host.encode(["blue", "a red ball "])
    assert encoder.seen == 2
    assert torch.equal(first[0], again[1])
    assert torch.equal(first[1], again[0])


@torch.no_grad()
def test_an_embedding_is_the_encoders_own():
    host, encoder = make()
    torch.testing.assert_close(host.encode(["a red ball"]), encoder.encode(["a red ball"]))


def test_an_embedding_does_not_depend_on_its_batch():
    (one, _), (other, _) = make(), make()
    together = one.encode(["a", "a long prompt"])
    assert torch.equal(together[:1], other.encode(["a"]))


def test_the_least_recently_used_text_is_forgotten():
    host, encoder = make(capacity=2)
    host.encode(["a", "b"])
    host.encode(["a"])
    host.encode(["c"])
    assert len(host) == 2
    host.encode(["a", "c"])
    assert encoder.seen == 3
    host.encode(["b"])
    assert encoder.seen == 4


def test_a_batch_larger_than_the_memory_is_still_answered():
    host, _ = make(capacity=1)
    assert host.encode(["a", "b", "c"]).shape == (3, 12, 16)
    assert len(host) == 1


def test_no_room_is_refused():
    with pytest.raises(ValueError, match="capacity 0"):
        make(capacity=0)


def test_embeddings_arrive_in_the_models_dtype():
    _, encoder = make()
    host = TextEncoderHost(encoder, device=CPU, dtype=torch.bfloat16, placement="cpu")
    assert host.encode(["a"]).dtype == torch.bfloat16
    assert encoder.network.norm.weight.dtype == torch.float32


@pytest.mark.parametrize("fails", [False, True])
def test_an_offloaded_network_visits_the_device_only_to_work(fails, monkeypatch):
    host, encoder = make(placement="offload")
    moves = []
    monkeypatch.setattr(encoder.network, "to", lambda place: moves.append(str(place)))
    if fails:
        monkeypatch.setattr(encoder, "encode_row", lambda text: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            host.encode(["a"])
    else:
        host._device = CPU
        host.encode(["a"])
        host.encode(["a"])  # remembered: no second visit
    assert moves == ["cpu", "cpu"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_offloaded_network_leaves_the_gpu_after_use():
    _, encoder = make()
    cuda = torch.device("cuda")
    host = TextEncoderHost(encoder, device=cuda, dtype=torch.bfloat16, placement="offload")
    assert host.encode(["a"]).is_cuda
    assert encoder.device.type == "cpu"
