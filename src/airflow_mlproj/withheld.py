"""Values that are passed on and never shown: neither in the serialized DAG, nor in rendered fields, nor in a log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import XComArg
from airflow.sdk.definitions._internal.mixins import ResolveMixin
from airflow.sdk.log import mask_secret

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["Withheld"]


class Withheld(ResolveMixin):
    """A mapping in a templated field of which Airflow is shown the names only.

    Airflow stores what stands in a templated field, as it was written and as it was rendered. Being a `ResolveMixin`
    it is rendered like any other, and what other tasks return may stand in it.

    Attributes:
        values: the mapping.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def iter_references(self) -> Iterable[tuple[Any, str]]:
        """The tasks whose return values stand in it."""
        return XComArg.iter_xcom_references(self.values)

    def resolve(self, context: Context) -> Withheld:
        """The same with every template filled in; what bears the name of a secret is masked in logs from here on."""
        rendered = context["task"].render_template(self.values, context)
        for name, value in rendered.items():
            mask_secret(str(value), str(name))
        return Withheld(rendered)

    def serialize(self) -> dict[str, str]:
        """What Airflow stores of it."""
        return dict.fromkeys(map(str, self.values), "***")

    def __repr__(self) -> str:
        return repr(self.serialize())
