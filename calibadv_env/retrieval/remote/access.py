"""Who may ask a search server: the names it answers to, where a page comes from, and a token.

A page in a browser can send requests to servers on its user's machine. It shows itself by an
``Origin`` that is not the server, and one that points a name of its own at this machine (DNS
rebinding) by a ``Host`` that this machine does not have.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final
from urllib.parse import urlsplit

from calibadv_env.retrieval.remote.asgi import Reply, failure

_OPEN_PATH: Final = "/health"
"""Asked without a token, so that a supervisor need not have one."""
_REMEMBERED: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRules:
    """Names that the server answers to, and where its token stands.

    Attributes:
        allow_host: Names that clients may use for the server, beside IP addresses, localhost,
            the name of this machine and the one that it listens on. "*" allows all.
        token_variable: Environment variable with a token, which every request but ``/health``
            must then bring as ``Authorization: Bearer TOKEN``. Empty: none is asked for.
    """

    allow_host: tuple[str, ...] = ()
    token_variable: str = ""


class Access:
    """Decides about requests by their headers.

    Args:
        rules: Names and token.
        host: Where the server listens.

    Raises:
        ValueError: if the variable that holds the token is not set, or holds spaces.
    """

    def __init__(self, rules: AccessRules, host: str) -> None:
        self._names = {"localhost", host, *rules.allow_host}
        self._all = "*" in rules.allow_host
        self._token = b""
        if rules.token_variable:
            token = os.environ.get(rules.token_variable, "").strip()
            if not token or any(c.isspace() for c in token):
                raise ValueError(
                    f"token_variable must name an environment variable that holds a token; "
                    f"{rules.token_variable} {'holds spaces' if token else 'is not set'}"
                )
            self._token = b"Bearer " + token.encode()
        self._known: dict[bytes, bool] = {}

    def refusal(self, path: str, headers: Mapping[bytes, bytes]) -> Reply | None:
        """Why a request is not answered; None if it is."""
        host = headers.get(b"host", b"")
        allowed = self._known.get(host)
        if allowed is None:
            allowed = self._is_allowed(host.decode("latin-1"))
            if len(self._known) < _REMEMBERED:
                self._known[host] = allowed
        if not allowed:
            name = host.decode("latin-1")[:80]
            return failure(
                421, f"this server is not {name!r}; if it is to be, start it with --allow-host"
            )
        origin = headers.get(b"origin")
        if origin is not None and _authority(origin) != host.decode("latin-1").lower():
            return failure(403, "pages of other sites may not ask this server")
        if self._token and path != _OPEN_PATH:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._token):
                return failure(401, "a token is needed: Authorization: Bearer TOKEN")
        return None

    def _is_allowed(self, host: str) -> bool:
        """A client that names no host is not a browser; an address cannot be rebound."""
        if self._all or not host:
            return True
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            known = {each.lower() for each in self._names | _own_names()}
            return name.rstrip(".") in known
        return True


@cache
def _own_names() -> frozenset[str]:
    return frozenset((socket.gethostname(), socket.getfqdn()))


def _authority(origin: bytes) -> str:
    """Host and port of an Origin; empty for "null" and what cannot be read."""
    return origin.decode("latin-1").lower().partition("://")[2]
