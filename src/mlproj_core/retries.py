"""Whether it can help to try again: what an engine asks before it spends a retry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlproj_core.errors import MlprojError, Superseded, TrackingRefused, UserError
from mlproj_core.status import ReasonCode

if TYPE_CHECKING:
    from mlproj_core.status import Reason

__all__ = ["retry_can_help"]

_NEVER = (ReasonCode.USER_INPUT, ReasonCode.CANCELLED)
_IF_IT_CAN_HELP = (
    ReasonCode.SOURCE,
    ReasonCode.ENVIRONMENT,
    ReasonCode.DATA,
    ReasonCode.IMAGE,
    ReasonCode.TRACKING,
)


def retry_can_help(error: BaseException) -> bool:
    """Whether another try can end better.

    Not after the caller's own mistake, a refusal or a cancellation. After a failure of what surrounds the project
    (source, environment, data, image, tracking) if its reason says so. Else it can: whoever asks for retries of a
    project that exits with an error means such ends too.

    Args:
        error: what ended the try.
    """
    reason: Reason | None = getattr(error, "reason", None)
    if not isinstance(error, MlprojError):
        return True
    if isinstance(error, (UserError, TrackingRefused, Superseded)):
        return False
    if reason is None or reason.code not in (*_NEVER, *_IF_IT_CAN_HELP):
        return True
    return reason.code in _IF_IT_CAN_HELP and reason.retryable
