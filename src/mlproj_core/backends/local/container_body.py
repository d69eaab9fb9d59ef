"""What the Engine API is told of a run's container: its command, variables, labels, mounts, and where the code is."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mlproj_core.claim import Claim
from mlproj_core.containers.container import CODE, OWN

__all__ = ["Body", "make_body", "secrets_text"]

READER = """
__mlproj_end=$0 __mlproj_text= __mlproj_whole=
while IFS= read -r __mlproj_line; do
  if [ "$__mlproj_line" = "$__mlproj_end" ]; then __mlproj_whole=1; break; fi
  __mlproj_text="$__mlproj_text$__mlproj_line
"
done
if [ -z "$__mlproj_whole" ]; then echo "[mlproj] the variables of the run did not arrive" >&2; exit 125; fi
eval "$__mlproj_text"
unset __mlproj_end __mlproj_text __mlproj_whole __mlproj_line
exec "$@" </dev/null
"""
"""Takes secret variables from standard input, up to a line that is `$0`, and becomes the command.

Nothing but what every shell has built in, so that an image needs no other program."""

ABOUT = ("mlproject", "dockerfile", "license", "licence", "readme", "changelog", "notice")
"""How the names of files begin that tell of a project, and are no code."""


@dataclass(frozen=True)
class Body:
    """A container to be made.

    Attributes:
        create: the body of the container-create call.
        argv: the project's command in it, without what mlproj wraps around it.
        code: whether the project's files are to be copied to `CODE`.
        root: the directory below which mlproj's own files can be copied.
        remarks: what people should know of it.
    """

    create: dict[str, Any]
    argv: tuple[str, ...]
    code: bool
    root: str = "/"
    remarks: tuple[str, ...] = ()


def make_body(
    claim: Claim,
    asked: Mapping[str, Any],
    visible: Mapping[str, str],
    secret: Mapping[str, str],
    image: Mapping[str, Any],
) -> Body:
    """The container of a run.

    Args:
        claim: the run's, whose request says what to run.
        asked: the body as far as it does not depend on the image; see `container_request`.
        visible: variables that anybody may see.
        secret: variables that come by standard input. None are needed for an image without a shell.
        image: what the engine knows of the image.
    """
    request = claim.request
    create = {**asked, "Image": image["Id"], "Env": [f"{name}={value}" for name, value in visible.items()]}
    built = bool(request["container"]["build"])
    body = _placed(Body(create, tuple(asked["Cmd"]), code=False), Path(request["directory"]), image, built=built)
    if secret:
        _wrap(body.create, image.get("Config") or {}, _end_of_secrets(claim.tag))
    if body.create["HostConfig"].get("ReadonlyRootfs"):
        places = ["/" + OWN.split("/")[1], *(str(Path(each["path"]).parent) for each in request.get("downloads", ()))]
        body.create["Volumes"] = {**(body.create.get("Volumes") or {}), **{place: {} for place in places}}
        body = replace(body, root=places[0])
    return body


def _placed(body: Body, directory: Path, image: Mapping[str, Any], *, built: bool) -> Body:
    """Where the project's files come from, and where its command begins.

    A volume that the user puts there counts first, then what a project without code of its own must mean.
    """
    own = (image.get("Config") or {}).get("WorkingDir") or "/"
    chosen = body.create.get("WorkingDir")
    covering = next((target for target in _targets(body.create) if _covers(target, CODE)), None)
    if built:
        return replace(body, remarks=(f"code: in the image, in {chosen or own}",))
    if covering is not None:
        body.create.setdefault("WorkingDir", CODE)
        return replace(body, remarks=(f"code: in the volume that is mounted at {covering}",))
    if not _has_code(directory):
        where = chosen or own
        return replace(body, remarks=(f"code: the image's own, in {where}; the project has none but its MLproject",))
    body.create.setdefault("WorkingDir", CODE)
    return replace(body, code=True)


def _has_code(directory: Path) -> bool:
    """Whether a project has more files than those that tell of it."""
    for path in directory.iterdir():
        name = path.name.lower()
        if not name.startswith((".", *ABOUT)) and not name.endswith((".md", ".rst")):
            return True
    return False


def _targets(create: Mapping[str, Any]) -> list[str]:
    """Where something is mounted in a container, whatever it is."""
    host = create["HostConfig"]
    targets = [volume.split(":")[1] for volume in host.get("Binds") or ()]
    targets += [mount["Target"] for mount in host.get("Mounts") or ()]
    return [*targets, *(host.get("Tmpfs") or ()), *(create.get("Volumes") or ())]


def _covers(target: str, place: str) -> bool:
    return PurePosixPath(place).is_relative_to(PurePosixPath(target))


def _wrap(create: dict[str, Any], image: Mapping[str, Any], end: str) -> None:
    """Have a shell of the image take the secret variables before the ENTRYPOINT and the command."""
    entrypoint = create["Entrypoint"] if "Entrypoint" in create else image.get("Entrypoint")
    words = [entrypoint] if isinstance(entrypoint, str) else list(entrypoint or ())
    create["Cmd"] = [*words, *create["Cmd"]]
    create["Entrypoint"] = ["sh", "-c", READER.strip(), end]
    create.update(OpenStdin=True, StdinOnce=True, AttachStdin=True)


def _end_of_secrets(tag: str) -> str:
    return f"# the end of the variables of {tag}"


def secrets_text(secret: Mapping[str, str], tag: str) -> bytes:
    """What the container's shell reads from its standard input."""
    lines = [f"export {name}={_quoted(value)}" for name, value in secret.items()]
    return "\n".join([*lines, _end_of_secrets(tag), ""]).encode(errors="surrogateescape")


def _quoted(text: str) -> str:
    return shlex.quote(text) if text else "''"
