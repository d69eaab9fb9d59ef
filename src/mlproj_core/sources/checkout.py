"""The checkout: a project's directory, and what is known of where it came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

__all__ = ["Checkout"]


@dataclass(frozen=True)
class Checkout:
    """A project's files, ready to be read, and their origin. No attribute holds a secret.

    Attributes:
        directory: the project's directory, absolute, with the subdirectory applied.
        uri: the project's URI as it was given, without credentials.
        source_name: value of the tag `mlflow.source.name`, by MLflow's rules.
        commit: full name of the commit the files are of; None when they are in no Git repository, are ignored by
            it, or it has no commit yet. A local directory that is run in place may hold changes on top of it.
        branch: the version, when it names a branch; else None (MLflow tags a branch only then).
        repo_url: value of the tag `mlflow.source.git.repoURL`, by MLflow's rules; None when there is none to tell.
        version: the version asked for: a branch, a tag or a commit; None when none was.
        subdirectory: the project's directory in its repository, as in "a/b"; "" for the root, or without a repository.
        owned: root of a checkout that now belongs to the caller, who may rename it within its file system and must
            delete it; None for a local directory that is run in place.
        digest: SHA-256 of the archive that the files came in, in hexadecimal; None when they came in none.
    """

    directory: Path
    uri: str
    source_name: str
    commit: str | None = None
    branch: str | None = None
    repo_url: str | None = None
    version: str | None = None
    subdirectory: str = ""
    owned: Path | None = None
    digest: str | None = None

    def moved_to(self, root: Path) -> Checkout:
        """This checkout after the caller renamed `owned` to `root`.

        Raises:
            ValueError: the project runs in place, so there is nothing that could have been moved.
        """
        if self.owned is None:
            raise ValueError(f"{self.directory} is run in place: it is not ours to move.")
        root = root.absolute()
        return replace(self, directory=root / self.directory.relative_to(self.owned), owned=root)
