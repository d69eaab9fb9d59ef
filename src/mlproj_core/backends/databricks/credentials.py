"""What lets somebody into a workspace who keeps it himself: in a connection, in a block."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlproj_core.backends.databricks.connect import cached, make_client
from mlproj_core.backends.databricks.workspace import Workspace
from mlproj_core.errors import UserError

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

__all__ = ["Credentials"]


@dataclass(frozen=True)
class Credentials:
    """A workspace, and a token or a service principal for it.

    Attributes:
        host: the workspace's address; without a scheme, https.
        token: a personal access token, or another that Databricks takes as one.
        client_id: of a service principal; of Databricks, unless there is a tenant.
        client_secret: of the service principal.
        tenant_id: the tenant of Entra ID whose service principal it is.
        resource_id: the workspace's resource id in Azure, for a service principal that is no user of the workspace.
    """

    host: str
    token: str | None = field(default=None, repr=False)
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    tenant_id: str | None = None
    resource_id: str | None = None

    def client(self, whose: str) -> WorkspaceClient:
        """A client of the workspace: one in a process for all who have the same credentials.

        It may ask the workspace where tokens are to be had: not for an event loop.

        Args:
            whose: whose credentials they are, for errors: "the connection 'databricks'".

        Raises:
            UserError: they cannot be used, or the SDK is not installed.
            ContactLost: the workspace is out of reach.
        """
        return cached(("credentials", self), lambda: Workspace(self._make(whose))).client

    def _make(self, whose: str) -> WorkspaceClient:
        try:
            # No profile: it would bring credentials of its own.
            return make_client({"host": self.host, "profile": "", **self._settings()})
        except ValueError as error:
            raise UserError(f"{whose} cannot be used for the workspace {self.host}: {error}.") from None

    def _settings(self) -> dict[str, str]:
        """The SDK's own settings. The way is named: this process's variables may be made for another one."""
        if self.token:
            return {"auth_type": "pat", "token": self.token}
        if not (self.client_id and self.client_secret):
            raise UserError(f"For the workspace {self.host} there is neither a token nor a service principal.")
        if not self.tenant_id:
            return {"auth_type": "oauth-m2m", "client_id": self.client_id, "client_secret": self.client_secret}
        return {
            "auth_type": "azure-client-secret",
            "azure_client_id": self.client_id,
            "azure_client_secret": self.client_secret,
            "azure_tenant_id": self.tenant_id,
            **({"azure_workspace_resource_id": self.resource_id} if self.resource_id else {}),
        }
