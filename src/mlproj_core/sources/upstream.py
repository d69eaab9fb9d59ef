"""Where others can clone a project from, when they have nothing of this host."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from mlproj_core.sources.location import Location, login, usual_user

__all__ = ["Upstream"]


@dataclass(frozen=True)
class Upstream:
    """A remote Git repository.

    Attributes:
        url: without credentials.
        login: user and password or token, for its host alone; None for none.
    """

    url: str
    login: tuple[str, str] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, uri: str, token: str | None) -> Upstream | None:
        """That of a project's URI; None if it names something of this host, or an archive.

        Args:
            uri: the project's, as given to `fetch`.
            token: as given to `fetch`.

        Raises:
            UserError: see `fetch`.
        """
        location = Location.parse(uri)
        if location.path is not None or location.is_archive:
            return None
        credentials = login(location, token)
        if credentials.password is None:
            return cls(location.url)
        user = credentials.username or usual_user(urlsplit(location.url).netloc)
        return cls(location.url, (user, credentials.password))
