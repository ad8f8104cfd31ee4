"""Who may talk to the gateway: API keys and the origins of web pages.

A key comes as ``Authorization: Bearer`` or, where a browser cannot set headers, as ``?key=``; it is
compared in constant time and never logged. Any web page can reach a loopback address, so a browser's
``Origin`` must be the page this gateway serves, unless the operator names others. Pure: reads
headers, does no I/O.
"""

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Gate:
    """What is let in.

    Attributes:
        api_keys: Keys that open everything; empty means that no key is needed.
        origins: Origins allowed besides the gateway's own page, such as ``https://example.org``.
    """

    api_keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def check_key(self, headers: Mapping[str, str], query: Mapping[str, str]) -> Refusal | None:
        """Return a refusal unless a valid key is shown or none is needed."""
        if not self.api_keys:
            return None
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not shown:
            shown = query.get("key", "")
        given = shown.strip().encode()
        # Every key is compared, so that the time says nothing about which one came close.
        matches = [hmac.compare_digest(given, key.encode()) for key in self.api_keys]
        if any(matches):
            return None
        seen = "a wrong API key" if given else "no API key"
        return Refusal(401, "unauthorized", f"{seen}; send Authorization: Bearer KEY (or ?key=KEY)")

    def check_host(self, headers: Mapping[str, str]) -> Refusal | None:
        """Return a refusal for a name that somebody else has pointed at this machine.

        Without a key, a web page could otherwise reach a loopback server under its own name and
        read the answers. A proxy's name is allowed as one of ``origins``.
        """
        host = headers.get("host", "")
        names = {urlsplit(origin).netloc for origin in self.origins}
        if self.api_keys or host in names or is_loopback(_name_in(f"http://{host}")):
            return None
        return Refusal(
            403,
            "forbidden_host",
            f"host {host[:200]}; without an API key only names of this machine are allowed, such as "
            "localhost; name a proxy's address with --allow-origin",
        )

    def check_origin(self, headers: Mapping[str, str]) -> Refusal | None:
        """Return a refusal when a web page of a foreign origin makes the request."""
        origin = headers.get("origin")
        if origin is None or origin in self.origins:
            return None
        host = headers.get("host", "")
        # A name that an attacker points at 127.0.0.1 would be its own origin, so without a key
        # only names that mean this machine count.
        name = _name_in(origin)
        own = name != "" and urlsplit(origin).netloc == host
        if own and (self.api_keys or is_loopback(name)):
            return None
        allowed = ", ".join((f"http://{host}", *self.origins))
        return Refusal(
            403,
            "forbidden_origin",
            f"origin {origin[:200]}; allowed are {allowed}; name others with --allow-origin",
        )


def _name_in(origin: str) -> str:
    """Return the host name of an origin; empty when it has none."""
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Return whether a host name or address means this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
