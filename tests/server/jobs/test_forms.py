"""Forms and JSON become one dictionary; anything else is refused, nothing else happens."""

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.jobs.errors import RequestRefused
from server.jobs.forms import as_mapping, nest


@pytest.mark.parametrize(
    ("items", "nested"),
    [
        ([("a", "1"), ("b", "2")], {"a": "1", "b": "2"}),
        ([("a[b]", "1"), ("a[c][d]", "2")], {"a": {"b": "1", "c": {"d": "2"}}}),
        ([("a[]", "1"), ("a[]", "2")], {"a": ["1", "2"]}),
        # Grouped by name, as the OpenAI SDK sends a list of objects.
        (
            [("p[][t]", "0"), ("p[][t]", "4"), ("p[][x]", "a"), ("p[][x]", "b")],
            {"p": [{"t": "0", "x": "a"}, {"t": "4", "x": "b"}]},
        ),
        (
            [("p[][t]", "0"), ("p[][x]", "a"), ("p[][t]", "4"), ("p[][x]", "b")],
            {"p": [{"t": "0", "x": "a"}, {"t": "4", "x": "b"}]},
        ),
    ],
)
def test_bracketed_names_are_nested(items: list[tuple[str, str]], nested: dict[str, Any]) -> None:
    assert nest(items) == nested


@pytest.mark.parametrize(
    "items",
    [
        [("a", "1"), ("a", "2")],
        [("a", "1"), ("a[b]", "2")],
        [("a[b]", "1"), ("a[]", "2")],
        [("a[]", "1"), ("a[b]", "2")],
        [("a[", "1")],
        [("[a]", "1")],
        [("a]b[", "1")],
        [("a[b]c", "1")],
        [("a" + "[b]" * 7, "1")],
    ],
)
def test_names_that_contradict_each_other_are_refused(items: list[tuple[str, str]]) -> None:
    with pytest.raises(RequestRefused):
        nest(items)


_NAMES = st.text("ab[]", max_size=12)


@settings(max_examples=80)
@given(st.lists(st.tuples(_NAMES, st.text(max_size=3)), max_size=8))
def test_any_form_is_nested_or_refused(items: list[tuple[str, str]]) -> None:
    with contextlib.suppress(RequestRefused):
        assert isinstance(nest(items), dict)


@pytest.mark.parametrize("value", ["{", "[1]", "5", 5, None, [], True])
def test_only_objects_and_their_texts_are_mappings(value: object) -> None:
    with pytest.raises(RequestRefused):
        as_mapping(value, "extra_params")
    assert as_mapping('{"a": 1}', "extra_params") == {"a": 1}
