"""Proxies of the environment: which one a request takes, and none to this machine.

Clusters set ``http_proxy`` and its siblings for the way out. A proxy cannot reach a server on the
loopback interface of the machine that asks, so such requests go straight, whatever is set.
"""

from __future__ import annotations

import ipaddress
import os
from typing import Final
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "::1")


def is_local(url: str) -> bool:
    """True for an address whose host is always this machine, such as ``http://127.0.0.1:8000``."""
    return is_loopback(_host(url))


def is_loopback(host: str) -> bool:
    """True for a host that is always this machine: localhost, 127.0.0.0/8 and ::1."""
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for an address, without password; None without one."""
    host = _host(url)
    if not host or is_loopback(host) or proxy_bypass(host):
        return None
    found = getproxies()
    for scheme in (urlsplit(url).scheme, "all"):
        if found.get(scheme):
            return f"{_without_password(found[scheme])} (variable {scheme}_proxy)"
    return None


def spare_loopback() -> None:
    """Tells libraries that read proxies themselves, as trackers do, to go straight to this machine.

    Adds this machine to ``no_proxy`` of this process and its children, if a proxy is set.
    """
    found = getproxies()
    if not any(found.get(scheme) for scheme in ("http", "https", "all")):
        return
    known = [each.strip() for each in found.get("no", "").split(",") if each.strip()]
    both = ",".join([*known, *(host for host in LOOPBACK_HOSTS if host not in known)])
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = both


def _host(url: str) -> str:
    """The host of an address; empty where it cannot be read."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _without_password(proxy: str) -> str:
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], "", "", ""))
