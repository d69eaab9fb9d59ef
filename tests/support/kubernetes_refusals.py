"""What an API server says when it does not do as it was asked."""


class Refusal(Exception):
    """An answer that is a Status.

    Args:
        code: the HTTP status.
        reason: the machine's word for it.
        message: the sentence.
        details: as the Status has them.
    """

    def __init__(self, code, reason, message, details=None, headers=None):
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message
        self.details = details
        self.headers = headers or {}

    def body(self):
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        if self.message:
            status["message"] = self.message
        status["reason"] = self.reason
        if self.details is not None:
            status["details"] = self.details
        return {**status, "code": self.code}


def _details(resource, name, kind=None):
    details = {"name": name} if name else {}
    if resource.group:
        details["group"] = resource.group
    return {**details, "kind": kind or resource.plural}


def not_found(resource, name):
    message = f'{resource.qualified} "{name}" not found'
    return Refusal(404, "NotFound", message, _details(resource, name))


def no_such_path():
    return Refusal(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(resource, name):
    message = f'{resource.qualified} "{name}" already exists'
    return Refusal(409, "AlreadyExists", message, _details(resource, name))


def conflict(resource, name, why=None):
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}'
    return Refusal(409, "Conflict", message, _details(resource, name))


def forbidden(resource, name, why):
    named = f'{resource.qualified} "{name}"' if name else resource.qualified
    return Refusal(403, "Forbidden", f"{named} is forbidden: {why}", _details(resource, name))


def bad_request(message):
    return Refusal(400, "BadRequest", message)


def undecodable(resource, why):
    return bad_request(f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: {why}')


def expired(message):
    return Refusal(410, "Expired", message)


def invalid(resource, name, causes):
    """A 422 of (field, reason, message) each; what is said twice is listed twice and said once."""
    said = list(dict.fromkeys(f"{field}: {message}" for field, _, message in causes))
    sentence = said[0] if len(said) == 1 else f"[{', '.join(said)}]"
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    details = _details(resource, name, resource.kind)
    details["causes"] = [
        {"reason": reason, "message": message, "field": field} for field, reason, message in causes
    ]  # fmt: skip
    return Refusal(422, "Invalid", f'{kind} "{name}" is invalid: {sentence}', details)
