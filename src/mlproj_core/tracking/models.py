"""Models of a registry, by their URIs (`mlflow.store.artifact.utils.models`)."""

from __future__ import annotations

from dataclasses import dataclass

from mlproj_core.errors import UserError

__all__ = ["LATEST", "ModelReference", "read_model_uri"]

LATEST = "latest"


@dataclass(frozen=True)
class ModelReference:
    """Which model a URI names: by its id, or by a registered name and one of version, stage and alias.

    Attributes:
        model_id: of a logged model: `models:/m-1234`.
        name: of a registered model.
        version: its version: `models:/name/3`.
        stage: its latest version in this stage, `models:/name/Production`; "latest" for that of all.
        alias: the version with this alias: `models:/name@champion`.
        path: below the model; "" for all of it.
    """

    model_id: str = ""
    name: str = ""
    version: str = ""
    stage: str = ""
    alias: str = ""
    path: str = ""

    def __str__(self) -> str:
        if self.model_id:
            return f"the model {self.model_id}"
        which = self.version and f"version {self.version}"
        which = which or (self.alias and f"alias {self.alias!r}")
        return f"the model {self.name!r}, {which or f'stage {self.stage!r}'}"


def read_model_uri(uri: str) -> ModelReference:
    """What a `models:/` URI names, as MLflow reads it.

    Raises:
        UserError: it names nothing.
    """
    parts = [part for part in uri.removeprefix("models:").strip("/").split("/") if part]
    if not parts:
        raise UserError(f"{uri} names no model. {_FORMS}")
    name, rest = parts[0], parts[1:]
    if "@" in name:
        name, _, alias = name.rpartition("@")
        if not name.strip() or not alias.strip():
            raise UserError(f"{uri} names no model. {_FORMS}")
        return ModelReference(name=name, alias=alias, path="/".join(rest))
    if not rest:
        return ModelReference(model_id=name)
    which, path = rest[0], "/".join(rest[1:])
    if which.isdigit():
        return ModelReference(name=name, version=which, path=path)
    return ModelReference(name=name, stage=LATEST if which.lower() == LATEST else which, path=path)


_FORMS = "Expected models:/name/version, models:/name/stage, models:/name@alias or models:/model-id."
