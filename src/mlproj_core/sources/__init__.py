"""Where a project comes from: a local directory, an archive, or Git, made a directory at a known commit.

`fetch` is the only way in and `Checkout` the only thing that comes out. Mirrors of remote repositories are kept in
the cache directory; they save time and traffic, and nothing rests on them.
"""

from __future__ import annotations

from mlproj_core.sources.checkout import Checkout
from mlproj_core.sources.fetching import cleanliness, fetch
from mlproj_core.sources.location import redact
from mlproj_core.sources.upstream import Upstream

__all__ = ["Checkout", "Upstream", "cleanliness", "fetch", "redact"]
