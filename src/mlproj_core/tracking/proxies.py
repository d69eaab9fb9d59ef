"""The proxy a request goes through, by the variables that MLflow's client (requests) reads."""

from __future__ import annotations

import contextlib
import os
from urllib.parse import unquote, urlsplit

from mlproj_core.errors import UserError
from mlproj_core.tracking.wire import Proxy

__all__ = ["proxy_for"]


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
            f"are supported for the tracking server. Unset it, or add {host} to NO_PROXY."
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
