"""A request is checked field by field, or refused by the name of the one at fault."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from server.jobs.errors import RequestRefused
from server.jobs.parse import CREATE_FIELDS, parse_request
from server.jobs.request import JobLimits
from server.jobs.schema import CREATE_SCHEMA
from tests.server.jobs.making import CARD

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["4", "160x96", "tiny", "{}", "a ball", 16, 0.5]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["t", "prompt", "prompts", "text", "weight", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@settings(max_examples=80)
@given(st.dictionaries(st.sampled_from(CREATE_FIELDS), _JSON, max_size=6))
def test_any_request_is_checked_or_refused_by_name(body: dict[str, Any]) -> None:
    def image(reference: object, size: tuple[int, int]) -> bytes:
        return b""

    refusal = None
    try:
        parsed = parse_request(body, [CARD], JobLimits(), lambda: 1, image)
    except RequestRefused as refused:
        refusal = refused.refusal
    if refusal is not None:
        assert refusal.param
        assert len(refusal.message) < 500
        return
    request = parsed.request
    assert type(request).from_json(request.to_json()) == request
    assert 1 <= request.num_frames <= 3600 * 16
    assert request.prompts[0].at_s == 0.0


def test_the_documentation_names_every_field_that_is_taken() -> None:
    assert set(CREATE_SCHEMA["properties"]) == set(CREATE_FIELDS)
