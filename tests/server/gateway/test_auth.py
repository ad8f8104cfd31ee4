import pytest

from server.gateway.auth import Gate, is_loopback

KEYED = Gate(("correct horse battery",))


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"authorization": "Bearer correct horse battery"}, {}),
        ({"authorization": "bearer correct horse battery"}, {}),
        ({}, {"key": "correct horse battery"}),
    ],
)
def test_a_valid_key_opens(headers: dict[str, str], query: dict[str, str]) -> None:
    assert KEYED.check_key(headers, query) is None


@pytest.mark.parametrize(
    ("headers", "query", "seen"),
    [
        ({}, {}, "no API key"),
        ({"authorization": "Bearer wrong"}, {}, "a wrong API key"),
        ({"authorization": "Basic correct horse battery"}, {}, "no API key"),
        ({}, {"key": "correct horse batter\u00fc"}, "a wrong API key"),
    ],
)
def test_without_a_valid_key_nothing_opens(
    headers: dict[str, str], query: dict[str, str], seen: str
) -> None:
    refusal = KEYED.check_key(headers, query)
    assert refusal is not None
    assert (refusal.status, refusal.code) == (401, "unauthorized")
    assert seen in refusal.message
    assert "wrong," not in refusal.message


def test_no_key_is_needed_when_none_is_set() -> None:
    assert Gate().check_key({}, {}) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "127.0.0.1:8000"},
        {"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000"},
        {"host": "localhost:8000", "origin": "http://localhost:8000"},
        {"host": "[::1]:8000", "origin": "http://[::1]:8000"},
        {"host": "127.0.0.1:8000", "origin": "https://studio.example"},
    ],
)
def test_our_own_page_named_origins_and_programs_are_let_in(headers: dict[str, str]) -> None:
    assert Gate(origins=("https://studio.example",)).check_origin(headers) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "127.0.0.1:8000", "origin": "http://evil.example"},
        {"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:9000"},
        {"host": "127.0.0.1:8000", "origin": "null"},
        {"host": "127.0.0.1:8000", "origin": "http://[bad"},
        {"host": "evil.example:8000", "origin": "http://evil.example:8000"},
        {"origin": ""},
    ],
)
def test_foreign_origins_are_refused_even_when_a_name_points_here(headers: dict[str, str]) -> None:
    refusal = Gate().check_origin(headers)
    assert refusal is not None
    assert (refusal.status, refusal.code) == (403, "forbidden_origin")
    assert "allowed are" in refusal.message


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:8000", True),
        ("localhost", True),
        ("[::1]:8000", True),
        ("studio.example", True),
        ("evil.example:8000", False),
        ("", False),
        ("[bad", False),
    ],
)
def test_without_a_key_only_names_of_this_machine_are_served(host: str, allowed: bool) -> None:
    refusal = Gate(origins=("https://studio.example",)).check_host({"host": host})
    assert (refusal is None) is allowed
    assert refusal is None or refusal.code == "forbidden_host"
    assert KEYED.check_host({"host": host}) is None


def test_with_a_key_the_server_may_have_any_name() -> None:
    headers = {"host": "video.example", "origin": "https://video.example"}
    assert KEYED.check_origin(headers) is None


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("", False)],
)
def test_which_addresses_mean_this_machine(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
