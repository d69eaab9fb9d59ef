"""Who may ask a workspace: by tokens, OAuth client credentials, the tokens of clusters; and its secrets."""

import base64
import re
import secrets
import threading

from databricks_refusals import Refusal, absent, invalid
from databricks_schema import check_fields

REFERENCE = re.compile(r"\{\{secrets/([\w.@-]+)/([\w.@-]+)\}\}")
"""How a variable of a cluster names a secret."""
SCOPE = re.compile(r"[\w.@-]{1,128}")
LARGEST = 128 << 10
"""Bytes of a secret."""


class Access:
    """Tokens and clients.

    Attributes:
        tokens: token to user's name.
        clients: id of a service principal to its secret.
        issued: how many tokens were issued for client credentials.
    """

    def __init__(self):
        self.tokens, self.clients, self.issued = {}, {}, 0
        self._guard = threading.Lock()

    def new_token(self, user, prefix="dapi"):
        token = f"{prefix}{secrets.token_hex(16)}"
        self.tokens[token] = user
        return token

    def user(self, authorization):
        """Raises: Refusal."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            said = "Credential was not sent or was of an unsupported type for this API."
            raise Refusal(401, "UNAUTHENTICATED", said)
        if token not in self.tokens:
            raise Refusal(403, "403", "Invalid access token.")
        return self.tokens[token]

    def issue(self, authorization, form):
        """A token for a service principal.

        Returns: status and body, as RFC 6749 has them.
        """
        scheme, _, coded = (authorization or "").partition(" ")
        client, _, secret = base64.b64decode(coded).decode().partition(":") if scheme == "Basic" else ("", "", "")
        client, secret = form.get("client_id", client), form.get("client_secret", secret)
        if form.get("grant_type") != "client_credentials":
            return 400, {"error": "unsupported_grant_type", "error_description": "Only client_credentials is supported"}
        if client not in self.clients or self.clients[client] != secret:
            return 401, {"error": "invalid_client", "error_description": "Client authentication failed"}
        with self._guard:
            self.issued += 1
        token = self.new_token(client, "eyJ")
        return 200, {
            "access_token": token, "token_type": "Bearer", "expires_in": 3600, "scope": form.get("scope", "all-apis"),
        }  # fmt: skip


class Secrets:
    """The secrets of a workspace, by scope and key (https://docs.databricks.com/api/workspace/secrets)."""

    def __init__(self):
        self._scopes = {}

    def put(self, scope, key, value):
        """Keep a secret; its scope is made if it is not there."""
        self._scopes.setdefault(scope, {})[key] = value.encode()

    def resolve(self, text):
        """A text with the secrets that it names. Raises: Refusal, if one is not there."""
        return REFERENCE.sub(lambda found: self._secret(found[1], found[2]).decode(), text)

    def _keys(self, scope):
        if scope not in self._scopes:
            raise absent(f"Scope {scope} does not exist!")
        return self._scopes[scope]

    def _secret(self, scope, key):
        keys = self._keys(scope)
        if key not in keys:
            raise absent(f"Secret does not exist with scope: {scope} and key: {key}")
        return keys[key]

    # -- the API

    def create_scope(self, body):
        check_fields(body, scope=str, initial_manage_principal=str, scope_backend_type=str, backend_azure_keyvault=dict)
        if not SCOPE.fullmatch(body.get("scope") or ""):
            raise invalid("A scope's name has letters, digits, -, _, @ and ., and 128 of them at most.")
        if body["scope"] in self._scopes:
            raise Refusal(400, "RESOURCE_ALREADY_EXISTS", f"Scope {body['scope']} already exists!")
        self._scopes[body["scope"]] = {}

    def delete_scope(self, body):
        check_fields(body, scope=str)
        self._keys(body.get("scope"))
        del self._scopes[body["scope"]]

    def list_scopes(self):
        return {"scopes": [{"name": name, "backend_type": "DATABRICKS"} for name in sorted(self._scopes)]}

    def put_secret(self, body):
        check_fields(body, scope=str, key=str, string_value=str, bytes_value=str)
        if "string_value" in body:
            value = body["string_value"].encode()
        else:
            value = base64.b64decode(body.get("bytes_value") or "")
        if len(value) > LARGEST:
            raise invalid(f"A secret has {LARGEST} bytes at most.")
        self._keys(body.get("scope"))[body.get("key")] = value

    def delete_secret(self, body):
        check_fields(body, scope=str, key=str)
        self._secret(body.get("scope"), body.get("key"))
        del self._scopes[body["scope"]][body["key"]]

    def list_secrets(self, query):
        return {
            "secrets": [{"key": key, "last_updated_timestamp": 0} for key in sorted(self._keys(query.get("scope")))]
        }

    def get_secret(self, query):
        value = self._secret(query.get("scope"), query.get("key"))
        return {"key": query["key"], "value": base64.b64encode(value).decode()}
