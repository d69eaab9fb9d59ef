"""The way a request takes: straight to a server, or by the proxy that requests, MLflow's client, would take."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from mlproj_core.errors import UserError
from mlproj_core.web.connection import Connection, Proxy, host_header

__all__ = ["connection_to", "proxy_for"]

if TYPE_CHECKING:
    import ssl


def connection_to(
    url: str, *, tls: Callable[[], ssl.SSLContext], connect_timeout: float, timeout: float
) -> tuple[Connection, str]:
    """A connection to an http(s) URL's server, not opened yet, and the value of the Host header for it.

    Args:
        url: of the server, or of something on it.
        tls: makes the TLS settings, for https.
        connect_timeout: seconds for the connection to open.
        timeout: seconds without a byte after which a request is given up.

    Raises:
        UserError: the proxy on the way to it is of a kind that is not supported.
    """
    parts = urlsplit(url)
    is_https = parts.scheme == "https"
    host = parts.hostname or ""
    host = host if host.isascii() else host.encode("idna").decode()
    port = parts.port or (443 if is_https else 80)
    proxy = proxy_for(parts.scheme, host, port)
    if proxy is not None and proxy.tls and is_https:
        raise UserError(
            "HTTPS_PROXY names a proxy that is itself spoken to by TLS (https://), which is not supported "
            f"for a server of https. Name it by http://, or add {host} to NO_PROXY."
        )
    connection = Connection(
        host, port, tls=tls if is_https else None, proxy=proxy, connect_timeout=connect_timeout, timeout=timeout
    )
    return connection, host_header(host, port, is_https)


def proxy_for(scheme: str, host: str, port: int) -> Proxy | None:
    """The proxy for a server: `<scheme>_proxy`, else `all_proxy`, unless `no_proxy` names the server.

    The rules are those of `urllib.request`, as for requests, and its one more: `no_proxy` may name networks.

    Raises:
        UserError: the proxy is of a kind that is not supported (SOCKS).
    """
    # Most have none, and are spared the import.
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    from urllib.request import getproxies_environment, proxy_bypass

    proxies = getproxies_environment()
    setting = scheme if scheme in proxies else "all"
    url = proxies.get(setting)
    if not url or proxy_bypass(f"{host}:{port}") or _is_in_network(host, proxies.get("no", "")):
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            f"{setting.upper()}_PROXY names a proxy of the kind {parts.scheme!r}; only http and https proxies "
            f"are supported. Unset it, or add {host} to NO_PROXY."
        )
    headers = {}
    if parts.username:
        import base64

        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    tls = parts.scheme == "https"
    return Proxy(parts.hostname, parts.port or (443 if tls else 80), tls, headers)


def _is_in_network(host: str, no_proxy: str) -> bool:
    import ipaddress

    for entry in no_proxy.split(","):
        # A host's name is no address, and most entries are no networks.
        with contextlib.suppress(ValueError):
            if "/" in entry and ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip(), strict=False):
                return True
    return False
