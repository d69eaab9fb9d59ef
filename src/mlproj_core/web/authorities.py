"""Which certificate authorities are trusted for https."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlproj_core.errors import UserError

if TYPE_CHECKING:
    import ssl

__all__ = ["authorities_of_requests", "trusting"]


def authorities_of_requests(environ: Mapping[str, str]) -> tuple[str, str | None]:
    """The variable in which requests finds a file or directory of authorities, and what it names; None for nothing."""
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if named := environ.get(variable):
            return variable, named
    return "CURL_CA_BUNDLE", None


def trusting(authorities: str | None, *, fall_back: bool = True) -> ssl.SSLContext:
    """TLS settings that check the server's certificate.

    Args:
        authorities: a file or directory of certificates in PEM form; None for the system's.
        fall_back: whether to take certifi's, if it is installed, where the system has none.

    Raises:
        UserError: they cannot be read.
    """
    import ssl

    try:
        is_directory = authorities is not None and Path(authorities).is_dir()
        context = ssl.create_default_context(
            cafile=None if is_directory else authorities, capath=authorities if is_directory else None
        )
    except (ssl.SSLError, OSError) as error:
        raise UserError(
            f"The certificate authorities in {authorities} cannot be read: {error}. Expected certificates in PEM form."
        ) from None
    if authorities is None and fall_back:
        _trust_certifi_where_the_system_has_nothing(context)
    return context


def _trust_certifi_where_the_system_has_nothing(context: ssl.SSLContext) -> None:
    import ssl

    paths = ssl.get_default_verify_paths()
    # Both are None where there is no such file or directory, though typeshed does not say so.
    if any(place and Path(place).exists() for place in (paths.cafile, paths.capath)):
        return
    from importlib import import_module
    from importlib.util import find_spec

    if find_spec("certifi") is not None:
        context.load_verify_locations(import_module("certifi").where())
