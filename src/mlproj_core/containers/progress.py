"""What an engine tells of an image's layers while it pulls or pushes, in a few lines for people."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mlproj_core.report import Report

__all__ = ["LayerProgress"]

INTERVAL: Final = 5.0
"""Seconds between two lines."""

_COUNTED: Final = ("Downloading", "Pushing")
"""States of a layer whose bytes say how far the transfer is; unpacking counts the same bytes again."""

_DONE: Final = (
    "Download complete", "Pull complete", "Already exists", "Pushed", "Layer already exists", "Mounted from",
)  # fmt: skip


class LayerProgress:
    """Tells how far the transfer of an image is, at most every few seconds.

    Args:
        verb: "pulling" or "pushing".
        image: its name.
        report: is given the lines.

    Attributes:
        trouble: the engine's words for what went wrong; None as long as nothing did.
        digest: under which a registry has the image, once it was pushed.
    """

    def __init__(self, verb: str, image: str, report: Report) -> None:
        self._verb, self._image, self._report = verb, image, report
        self.trouble: str | None = None
        self.digest: str | None = None
        self._began = self._told = time.monotonic()
        self._layers: dict[str, tuple[int, int]] = {}
        self._done: set[str] = set()
        report(f"{verb} the image {image}")

    def follow(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take the engine's events to their end, which frees the connection."""
        for event in events:
            self.take(event)

    def take(self, event: Mapping[str, Any]) -> None:
        """Take one event of the Engine API."""
        if "error" in event or "errorDetail" in event:
            detail = event.get("errorDetail") or {}
            self.trouble = str(detail.get("message") or event.get("error"))
            return
        self.digest = (event.get("aux") or {}).get("Digest") or self.digest
        layer, status = event.get("id"), str(event.get("status") or "")
        if layer is None or status.startswith("Pulling from"):
            return
        have, size = self._layers.setdefault(layer, (0, 0))
        amounts = event.get("progressDetail") or {}
        if status.startswith(_COUNTED) and amounts.get("current"):
            have = int(amounts["current"])
            self._layers[layer] = (have, max(size, int(amounts.get("total") or 0), have))
        if status.startswith(_DONE):
            self._done.add(layer)
            self._layers[layer] = (size, size)
        self._tell()

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told < INTERVAL:
            return
        self._told = now
        have, size = (sum(amounts) for amounts in zip(*self._layers.values(), strict=True))
        share = f"{100 * have // size} % of {size / 1e6:.0f} MB, " if size else ""
        self._report(f"{self._verb} {self._image}: {share}{len(self._done)} of {len(self._layers)} layers")

    def done(self, what: str) -> None:
        """Say that it is over.

        Args:
            what: the digest or the id.
        """
        took = time.monotonic() - self._began
        self._report(f"{self._verb.replace('ing', 'ed')} {self._image} in {took:.1f} s: {what}")
