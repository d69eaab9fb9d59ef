"""Lock files of conda-lock (https://conda.github.io/conda-lock/output/#unified-lockfile), version 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlproj_core.errors import UserError
from mlproj_core.spec.conda_file import ExplicitPackage

__all__ = ["LockedPackages", "read_conda_lock"]


@dataclass(frozen=True)
class LockedPackages:
    """What a lock file lists for one platform.

    Attributes:
        conda: packages of conda.
        pip: requirement lines for pip, each with its address and the digest of the file there.
    """

    conda: tuple[ExplicitPackage, ...]
    pip: tuple[str, ...]


def read_conda_lock(content: bytes, file: str, platform: str) -> LockedPackages:
    """What a lock file lists in its category `main`, which is what a project needs to run.

    Args:
        content: the file.
        file: how messages name it.
        platform: conda's name of a platform, as in "linux-64".

    Raises:
        UserError: it is no such file, or lists nothing for the platform.
    """
    import yaml

    try:
        document = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else file
        raise UserError(f"{where}: this lock file is no valid YAML. Make it anew with `conda-lock`.") from error
    packages = document.get("package") if isinstance(document, dict) else None
    if not isinstance(packages, list) or document.get("version") != 1:
        raise UserError(f"{file}: only lock files of version 1 can be read. Make it anew with `conda-lock`.")
    wanted = [one for one in packages if _is_wanted(one, platform)]
    if not wanted:
        platforms = sorted({str(one.get("platform")) for one in packages if isinstance(one, dict)})
        raise UserError(
            f"{file} lists no packages for {platform}, only for {', '.join(platforms) or 'none'}. "
            f"Make it anew with `conda-lock -p {platform}`."
        )
    conda, pip = [], []
    for one in wanted:
        digests = one.get("hash") or {}
        if not one.get("url"):
            raise UserError(f"{file}: the package {one.get('name')!r} has no url. Make it anew with `conda-lock`.")
        if one.get("manager") == "pip":
            digest = f" --hash=sha256:{digests['sha256']}" if digests.get("sha256") else ""
            pip.append(f"{one['name']} @ {one['url']}{digest}")
        else:
            conda.append(ExplicitPackage(str(one["url"]), digests.get("md5"), digests.get("sha256")))
    return LockedPackages(tuple(conda), tuple(pip))


def _is_wanted(package: Any, platform: str) -> bool:
    return (
        isinstance(package, dict)
        and package.get("platform") == platform
        and package.get("category", "main") == "main"
        and not package.get("optional", False)
    )
