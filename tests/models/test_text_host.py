"""The text encoder's host: one text and one caller at a time, wherever the network lives."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from models.text_encoder import UMT5, TextEncoder, TextEncoderConfig
from models.text_host import TextEncoderHost
from models.tokenizer import ByteTokenizer

SMALL = TextEncoderConfig(
    vocab_size=259, dim=16, dim_attn=16, dim_ffn=24, num_heads=2, num_layers=1, text_len=12
)
CPU = torch.device("cpu")


class Watched(TextEncoder):
    """Asserts that the network works without gradients and for one caller at a time."""

    busy = False

    def encode(self, texts):
        assert not torch.is_grad_enabled()
        assert not self.busy
        self.busy = True
        time.sleep(0.001)
        embedded = super().encode(texts)
        self.busy = False
        return embedded


def make(**options):
    network = UMT5(SMALL)
    network.init_weights(torch.Generator().manual_seed(0))
    encoder = Watched(network, ByteTokenizer())
    return TextEncoderHost(encoder, device=CPU, dtype=torch.float32, **options), encoder


def test_callers_of_several_threads_wait_for_each_other():
    host, _ = make()
    alone = host.encode(["a"])
    with ThreadPoolExecutor(4) as threads:
        for embedded in threads.map(host.encode, [["a"]] * 12):
            assert torch.equal(embedded, alone)


@torch.no_grad()
def test_an_embedding_is_the_encoders_own():
    host, encoder = make()
    torch.testing.assert_close(host.encode(["a red ball"]), encoder.encode(["a red ball"]))


def test_an_embedding_does_not_depend_on_its_batch():
    (one, _), (other, _) = make(), make()
    together = one.encode(["a", "a long prompt"])
    assert torch.equal(together[:1], other.encode(["a"]))


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
        monkeypatch.setattr(encoder, "encode", lambda texts: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            host.encode(["a"])
    else:
        host.encode(["a"])
    assert moves == ["cpu", "cpu"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_offloaded_network_leaves_the_gpu_after_use():
    _, encoder = make()
    cuda = torch.device("cuda")
    host = TextEncoderHost(encoder, device=cuda, dtype=torch.bfloat16, placement="offload")
    assert host.encode(["a"]).is_cuda
    assert encoder.device.type == "cpu"
