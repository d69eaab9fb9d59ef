"""An engine that answers, and says no."""

from __future__ import annotations

__all__ = ["EngineRefusal"]


class EngineRefusal(Exception):
    """The engine answered, and said no.

    Attributes:
        status: of HTTP.
        said: its own words.
    """

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"HTTP {status}: {said}")
        self.status = status
        self.said = said

    @property
    def is_missing(self) -> bool:
        """Whether there is no such thing."""
        return self.status == 404
