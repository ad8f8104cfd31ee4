import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.text_encoder import UMT5
from models.tokenizer import SentencePieceTokenizer
from models.train.captions import train_tokenizer
from models.train.recipe import TextRecipe
from models.train.recipes import smoke
from models.train.run_folder import Stage, StageLimits
from models.train.text_start import Reader, labelled, train_text
from models.train.world_scene import ATTRIBUTES, NAMES


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> SentencePieceTokenizer:
    path = tmp_path_factory.mktemp("text") / "tokenizer.model"
    train_tokenizer(path, captions=2000)
    return SentencePieceTokenizer.from_file(path)


def test_what_a_caption_does_not_state_is_a_class_of_its_own(
    tokenizer: SentencePieceTokenizer,
) -> None:
    _, _, codes = labelled(200, tokenizer, 48, np.random.default_rng(0))
    for column, name in enumerate(NAMES):
        absent = (codes[:, column] == len(ATTRIBUTES[name])).float().mean()
        assert 0.0 < absent < 0.7
        assert codes[:, column].max() == len(ATTRIBUTES[name])


def test_training_makes_captions_readable(
    tokenizer: SentencePieceTokenizer, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    recipe = smoke()
    recipe = replace(recipe, text_start=TextRecipe(StageLimits(60), batch=32, peak=3e-3))
    text = UMT5(recipe.text)
    text.init_weights()
    stage = Stage(tmp_path, "text", recipe.text_start.limits, time.monotonic, quiet=True)
    train_text(stage, recipe, text, tokenizer, torch.device("cpu"))
    losses = [
        float(line.split('"loss": ')[1].split(",")[0])
        for line in (tmp_path / "text" / "log.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < 0.75 * losses[0]


def test_padding_does_not_change_what_is_read(tokenizer: SentencePieceTokenizer) -> None:
    torch.manual_seed(1)
    text = UMT5(smoke().text)
    text.init_weights()
    reader = Reader(text)
    ids, mask, _ = labelled(3, tokenizer, 48, np.random.default_rng(1))
    pad = torch.zeros(3, 5, dtype=ids.dtype)
    short = reader(ids, mask)
    padded = reader(torch.cat((ids, pad), 1), torch.cat((mask, pad), 1))
    for one, other in zip(short, padded, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
