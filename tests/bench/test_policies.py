"""What less work costs on the reference's vectors stays what is written down."""

from pathlib import Path

import pytest

from tests.bench.policies import CASE, ROWS, measure

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
BY_NAME = {row.name: row for row in ROWS}


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("exact, float32", 0.0, 1e-5),
        ("clean pass merged into the next chunk's first", 0.0, 1e-5),
        ("bfloat16", 1e-3, 1.5e-2),
        ("FP8 linears, bfloat16 elsewhere", 1e-2, 3e-2),
        ("best 3 older pages, with sink and own", 5e-3, 4e-2),
    ],
)
def test_relative_error_of_a_rollout(name: str, least: float, most: float) -> None:
    assert least <= measure(GOLDEN, CASE, BY_NAME[name])["relative_rms"] <= most
