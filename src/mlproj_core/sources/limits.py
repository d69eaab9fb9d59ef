"""The limits on an archive: how much of it is downloaded and unpacked before it counts as a bomb."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from mlproj_core.errors import UserError

__all__ = ["Limits"]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class Limits:
    """What an archive may measure at most. Each is raised by a variable: MLPROJ_ARCHIVE_MAX_ and its name.

    Attributes:
        size: bytes of the archive itself.
        unpacked: bytes of all its files together.
        entries: number of its files, directories and links.
        ratio: bytes unpacked for each byte of the archive, once there are more than `RATIO_FROM` of them.
    """

    size: int = 1 << 30
    unpacked: int = 8 << 30
    entries: int = 100_000
    ratio: int = 200

    RATIO_FROM = 32 << 20
    """Bytes unpacked that no ratio makes suspicious: a small table of zeros is no bomb."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Limits:
        """The limits, those raised that the environment raises.

        Raises:
            UserError: a variable holds no whole number above 0.
        """
        given = {}
        for field in fields(cls):
            if text := environ.get(_variable(field.name)):
                found = re.fullmatch(r"([0-9]+)([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
                if found is None or int(found[1]) < 1:
                    raise UserError(
                        f"{_variable(field.name)} must be a whole number above 0, with K, M, G or T (powers of 1024) "
                        f"behind it if need be; it is {text!r}"
                    )
                given[field.name] = int(found[1]) * _UNITS[found[2].upper()]
        return cls(**given)

    def check_unpacked(self, shown: str, unpacked: int, size: int) -> None:
        """Check how much was unpacked so far of an archive of `size` bytes.

        Raises:
            UserError: it is too much.
        """
        if unpacked > self.unpacked:
            raise self.excess(shown, "unpacked")
        if unpacked > self.RATIO_FROM and unpacked > self.ratio * size:
            raise self.excess(shown, "ratio")

    def excess(self, shown: str, limit: str) -> UserError:
        """The error for an archive that is over a limit.

        Args:
            shown: the archive's URI, without secrets.
            limit: name of the limit: "size", "unpacked", "entries" or "ratio".
        """
        value = getattr(self, limit)
        words = {
            "size": f"is larger than {_amount(value)}",
            "unpacked": f"unpacks to more than {_amount(value)}",
            "entries": f"has more than {value} entries",
            "ratio": f"unpacks to more than {value} times its size, as archives do that are made to fill a disk",
        }[limit]
        return UserError(f"{shown}: the archive {words}. If you trust it, set {_variable(limit)} to more than that.")


def _variable(limit: str) -> str:
    return f"MLPROJ_ARCHIVE_MAX_{limit.upper()}"


def _amount(value: int) -> str:
    """Bytes in the largest unit that gives a whole number, written as the variables read it."""
    name = max((unit for unit, factor in _UNITS.items() if value % factor == 0), key=lambda unit: _UNITS[unit])
    return f"{value // _UNITS[name]}{name}" if name else f"{value} bytes"
