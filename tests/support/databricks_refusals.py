"""What a Databricks workspace answers instead of what it was asked for.

Texts that are quoted are those that users of the real service have reported; where none is known, the text is ours, and
only the code and the status are the service's.
"""

MULTIPLE_TASKS = (
    "Retrieving the output of runs with multiple tasks is not supported. Please retrieve the output of each individual "
    "task run instead."
)


class Refusal(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        code: `error_code` in the answer's body.
        message: as people read it.
        headers: further headers.
    """

    def __init__(self, status, code, message, headers=None):
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}

    def body(self):
        return {"error_code": self.code, "message": self.message}


class Unheard(Exception):
    """No answer: the connection breaks."""


def invalid(message):
    """A value that cannot be."""
    return Refusal(400, "INVALID_PARAMETER_VALUE", message)


def malformed(message):
    """A body that is not of the form that the API has."""
    return Refusal(400, "MALFORMED_REQUEST", f"Could not parse request object: {message}")


def absent(message, code="RESOURCE_DOES_NOT_EXIST"):
    return Refusal(404, code, message)


def denied(message):
    return Refusal(403, "PERMISSION_DENIED", message)


def no_such_run(run_id):
    """The SDK knows this one by its text (`databricks.sdk.errors.overrides`)."""
    return invalid(f"Run {run_id} does not exist.")


def no_such_cluster(cluster_id):
    """Likewise."""
    return invalid(f"Cluster {cluster_id} does not exist")


def no_such_endpoint(method, path):
    return Refusal(404, "ENDPOINT_NOT_FOUND", f"No API found for '{method} {path}'")
