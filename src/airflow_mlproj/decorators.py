"""`@task.mlproject`: a function that returns the parameters of a project's run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.bases.decorator import DecoratedOperator, TaskDecorator, determine_kwargs, task_decorator_factory
from airflow.sdk.definitions.context import context_merge

from airflow_mlproj.operators import MLProjectOperator
from mlproj_core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

__all__ = ["mlproject_task"]


class _MLProjectDecoratedOperator(DecoratedOperator, MLProjectOperator):
    """Runs a project with the parameters that a function returns."""

    custom_operator_name = "@task.mlproject"
    template_fields: Sequence[str] = (*DecoratedOperator.template_fields, *MLProjectOperator.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **MLProjectOperator.template_fields_renderers,
    }

    def execute(self, context: Context) -> dict[str, Any]:
        """Call the function, then run the project."""
        from airflow_mlproj.outcome import airflow_words

        context_merge(context, self.op_kwargs)
        given = determine_kwargs(self.python_callable, self.op_args, context)
        returned = self.python_callable(*self.op_args, **given)
        with airflow_words():
            if not isinstance(returned, Mapping):
                raise UserError(
                    f"{self.python_callable.__name__} must return the project's parameters as a mapping of names to "
                    f"values; it returned {type(returned).__name__}."
                )
        # What it returns may be a template in itself.
        self.parameters = self.render_template(dict(returned), context)
        value: dict[str, Any] = super().execute(context)
        return value


def mlproject_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """Turn a function into a task that runs a project with the parameters that it returns.

    Args:
        python_callable: the function.
        kwargs: the arguments of `MLProjectOperator`, but `parameters`.
    """
    # What it returns are parameters: its annotation says nothing of the task's return value.
    kwargs.setdefault("multiple_outputs", True)
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=_MLProjectDecoratedOperator, **kwargs
    )
