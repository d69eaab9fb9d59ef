"""How a project's code gets into its pod, without a Docker engine where the run is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from mlproj_core.backends.kubernetes.config import KubernetesConfig
from mlproj_core.containers import CODE
from mlproj_core.errors import UserError
from mlproj_core.sources.location import Location, redact

if TYPE_CHECKING:
    from mlproj_core.sources import Checkout

__all__ = [
    "ALTERNATIVES",
    "ARCHIVE",
    "FILES",
    "GIT_PASSWORD",
    "GIT_USERNAME",
    "WORK",
    "ArchiveCode",
    "Code",
    "GitCode",
    "ImageCode",
    "choose_code",
    "code_container",
    "escaped",
    "git_code",
]

WORK = "/mlflow/projects"
"""The volume that the code is in, at `containers.CODE`, and that can be written."""
FILES = "/mlproj"
"""Where the files of the attempt's Secret are."""
ARCHIVE = f"{FILES}/code.tar.gz"

GIT_IMAGE = "alpine/git:v2.52.0"

_UNPACK = """set -eu
mkdir -p "$1"
cd "$1"
tar -xzf "$2"
"""

_CLONE = """set -eu
umask 000 # the project may run as another user
HOME=$(mktemp -d) # has the login and the settings, and is gone when the project begins
trap 'rm -rf "$HOME"' EXIT
export HOME GIT_TERMINAL_PROMPT=0
if [ -n "${MLPROJ_ASKPASS_PASSWORD-}" ]; then
  cat >"$HOME/askpass" <<'END'
#!/bin/sh
# Answers git for one host only: a redirect or a submodule elsewhere is not told the secret.
case "$1" in
*"://$MLPROJ_ASKPASS_HOST"[/\\'\\"]* | *"@$MLPROJ_ASKPASS_HOST"[/\\'\\"]*) ;;
*) exit 1 ;;
esac
case "$1" in
Username*) printf '%s\\n' "$MLPROJ_ASKPASS_USERNAME" ;;
*) printf '%s\\n' "$MLPROJ_ASKPASS_PASSWORD" ;;
esac
END
  chmod 700 "$HOME/askpass"
  export GIT_ASKPASS="$HOME/askpass"
fi
git config --global core.hooksPath /dev/null
git config --global protocol.ext.allow never
git config --global advice.detachedHead false
lfs=
if git lfs version >/dev/null 2>&1; then
  git lfs install --skip-repo >/dev/null
  lfs=yes
fi
code=$MLPROJ_GIT_CODE
tree=$code
[ -z "$MLPROJ_GIT_SUBDIRECTORY" ] || tree=${code%/*}/repository
git init -q "$tree"
cd "$tree"
git remote add origin "$MLPROJ_GIT_URL"
tries=3
until git fetch -q --depth 1 origin "$MLPROJ_GIT_COMMIT" ||
  git fetch -q --tags origin '+refs/heads/*:refs/remotes/origin/*'; do
  tries=$((tries - 1))
  [ $tries -gt 0 ] || exit 1
  sleep 2
done
git checkout -q --detach "$MLPROJ_GIT_COMMIT"
git submodule update -q --init --recursive
if [ -z "$lfs" ] && git grep -q -e filter=lfs -- .gitattributes '*/.gitattributes'; then
  echo "The repository keeps files by Git LFS, and this image has no git-lfs: name one that has, by git-image." >&2
  exit 1
fi
if [ "$tree" != "$code" ]; then
  if [ ! -d "$MLPROJ_GIT_SUBDIRECTORY" ]; then
    echo "The commit $MLPROJ_GIT_COMMIT has no directory $MLPROJ_GIT_SUBDIRECTORY." >&2
    exit 1
  fi
  ln -s "repository/$MLPROJ_GIT_SUBDIRECTORY" "$code"
fi
"""


@dataclass(frozen=True)
class ImageCode:
    """The image holds the code: a prebuilt one, or one that was built for the run."""


@dataclass(frozen=True)
class ArchiveCode:
    """The attempt's Secret holds the code, as a gzipped tar."""


@dataclass(frozen=True)
class GitCode:
    """The pod clones the code.

    Attributes:
        url: of the repository, without credentials.
        commit: full name of the commit, which the repository has.
        subdirectory: of the project in it; "" for the root.
        login: whether the attempt's Secret holds `GIT_USERNAME` and `GIT_PASSWORD`.
    """

    url: str
    commit: str
    subdirectory: str = ""
    login: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{40}([0-9a-f]{24})?", self.commit):
            raise ValueError(f"not the full name of a commit: {self.commit!r}")
        if re.match(r"[A-Za-z+.-]+://[^/]*@", self.url):
            raise ValueError("the URL holds credentials, which do not belong into a Job")
        if ".." in PurePosixPath(self.subdirectory).parts or self.subdirectory.startswith("/"):
            raise ValueError(f"leads out of the repository: {self.subdirectory!r}")

    @property
    def host(self) -> str:
        """The host, with its port, that the login is for."""
        return self.url.partition("://")[2].partition("/")[0]


Code = ImageCode | ArchiveCode | GitCode

GIT_USERNAME, GIT_PASSWORD = "git-username", "git-password"
"""Keys of the attempt's Secret."""


def git_code(checkout: Checkout, *, login: bool) -> GitCode | str:
    """How a pod can clone a project that was fetched from a Git repository; else why it cannot, as half a sentence.

    What was fetched from a repository is there to be fetched again. Of a local directory nobody knows whether its
    commit was pushed, or what was changed since.

    Args:
        checkout: the project's files.
        login: whether there is a login for the repository.
    """
    if checkout.owned is None:
        return "the project is a local directory, whose changes a pod cannot fetch"
    location = Location.parse(checkout.uri)
    if location.is_archive or checkout.commit is None:
        return "the project is no Git repository"
    if location.path is not None:
        return "the repository is a directory of this host, which a pod does not see"
    if not location.url.startswith(("https://", "http://", "git://")):
        return "the repository is reached by ssh, for which a pod has no key (its https:// URL would do)"
    if redact(location.url) != location.url:
        return "the repository's URL has a secret in its query, which would show in the Job"
    return GitCode(location.url, checkout.commit, checkout.subdirectory, login)


def choose_code(
    config: KubernetesConfig, *, prebuilt: bool, build: bool, archive_fits: bool, git: GitCode | str
) -> str:
    """How the code gets in: "image", "git", "secret" or "build".

    What the caller says by `code` holds. Else `build_image`, or a `repository-uri`, asks for an image to be built, as
    `mlflow run` does; an image that the caller named by docker_args is taken to hold the code; an archive in the Secret
    is the very code that stands here; what is too large for it is cloned.

    Args:
        config: the caller's settings.
        prebuilt: whether the caller named an image by docker_args.
        build: whether the caller asked for a build.
        archive_fits: whether the code's archive fits into the Secret.
        git: see `git_code`.

    Raises:
        UserError: the way that was asked for cannot be, or no way can.
    """
    if config.code == "git" and isinstance(git, str):
        raise UserError(f'backend_config: \'code\' is "git", but {git}. Leave it out, or say "secret".')
    if build and config.code not in ("auto", "build"):
        raise UserError(f"build_image is asked for, and 'code' of backend_config says {config.code!r}: leave one out.")
    if build or config.code == "build" or (config.code == "auto" and config.repository_uri and not prebuilt):
        if config.repository_uri is None:
            raise UserError(
                "build_image: the cluster must be able to pull the image that is built. Say where it is to be pushed: "
                "backend_config={'repository-uri': 'registry.example.com/team/project'}."
            )
        return "build"
    if config.code != "auto":
        return config.code
    if prebuilt:
        return "image"
    if archive_fits:
        return "secret"
    if isinstance(git, str):
        raise UserError(f"The project's code is too large for a Kubernetes Secret, and {git}. {ALTERNATIVES}")
    return "git"


ALTERNATIVES = (
    "Leave out what the run does not need, by a .dockerignore; or bring the code in by another way: push it to a Git "
    "repository and run it from there ('code': \"git\"), have an image built and pushed ('repository-uri', or `mlproj "
    "build-image`), or name an image that holds it (docker_args={'image': ...})."
)


def code_container(code: Code, *, secret: str, image: str, config: KubernetesConfig) -> dict[str, Any] | None:
    """The init container that brings the code in; None where none is needed.

    Its mounts are the caller's to add. Of its failure, Kubernetes keeps the last lines.

    Args:
        code: where the code is.
        secret: name of the attempt's Secret.
        image: the project's image.
        config: the caller's settings.
    """
    if isinstance(code, ImageCode):
        return None
    container: dict[str, Any] = {
        "name": "mlproj-code",
        # Else the runtime would make the image's own working directory, on the volume, as root.
        "workingDir": "/",
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if isinstance(code, ArchiveCode):
        # The project's own image: no further one to pull, to trust and to mirror.
        command = ["sh", "-c", escaped(_UNPACK), "mlproj", CODE, ARCHIVE]
        return {**container, "image": config.unpack_image or image, "command": command}
    env: list[dict[str, Any]] = [
        {"name": "MLPROJ_GIT_URL", "value": escaped(code.url)},
        {"name": "MLPROJ_GIT_COMMIT", "value": code.commit},
        {"name": "MLPROJ_GIT_SUBDIRECTORY", "value": escaped(code.subdirectory)},
        {"name": "MLPROJ_GIT_CODE", "value": CODE},
    ]
    if code.login:
        env += [
            {"name": "MLPROJ_ASKPASS_HOST", "value": escaped(code.host)},
            {"name": "MLPROJ_ASKPASS_USERNAME", "valueFrom": {"secretKeyRef": {"name": secret, "key": GIT_USERNAME}}},
            {"name": "MLPROJ_ASKPASS_PASSWORD", "valueFrom": {"secretKeyRef": {"name": secret, "key": GIT_PASSWORD}}},
        ]
    command = ["sh", "-c", escaped(_CLONE)]
    return {**container, "image": config.git_image or GIT_IMAGE, "command": command, "env": env}


def escaped(text: str) -> str:
    """A text of a command or a variable so that Kubernetes leaves it as it is.

    It replaces `$(NAME)` by the variable's value, and `$$` by one dollar sign (`third_party/forked/golang/expansion`).
    """
    return text.replace("$", "$$")
