"""What MLflow's client reads from the environment to authenticate itself, read the same way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlproj_core.errors import UserError
from mlproj_core.tracking.uris import Userinfo
from mlproj_core.web.authorities import authorities_of_requests, trusting
from mlproj_core.web.logins import basic, home, netrc_login

if TYPE_CHECKING:
    import ssl

__all__ = ["Credentials", "TlsSettings", "flag", "header_text", "integer"]


def flag(name: str, environ: Mapping[str, str], default: bool = False) -> bool:
    """A variable that MLflow reads as true, false, 1 or 0 in any case.

    Raises:
        UserError: it is none of these.
    """
    text = environ.get(name)
    if text is None:
        return default
    if text.lower() not in ("true", "false", "1", "0"):
        raise UserError(f"{name} must be one of true, false, 1 and 0, but it is {text!r}")
    return text.lower() in ("true", "1")


def integer(name: str, environ: Mapping[str, str], default: int) -> int:
    """A variable that MLflow reads as a whole number, zero or more.

    Raises:
        UserError: it is not.
    """
    text = environ.get(name)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise UserError(f"{name} must be a whole number, zero or more, but it is {text!r}")
    return value


def header_text(value: str, variable: str) -> str:
    """The value, which can stand in an HTTP header.

    Raises:
        UserError: it cannot; the message does not show it.
    """
    if not value.isprintable() or not value.isascii():
        raise UserError(f"{variable} holds a line break or a character that no HTTP header can carry.")
    return value


class Credentials:
    """Who asks a tracking server.

    Attributes:
        who: for messages: the user's name and where it comes from; never a secret.
        authorization: value of the header Authorization, or None.
        secrets: texts that must never be shown.
    """

    __slots__ = ("authorization", "secrets", "who")

    def __init__(self, who: str, authorization: str | None = None, secrets: tuple[str, ...] = ()) -> None:
        self.who = who
        self.authorization = authorization
        self.secrets = secrets

    def __repr__(self) -> str:
        return f"Credentials({self.who})"

    @classmethod
    def from_environment(cls, host: str, userinfo: Userinfo | None, environ: Mapping[str, str]) -> Credentials:
        """The credentials that MLflow's client would send to `host`; the first of these wins.

        A .netrc entry for the host, user and password in the URI (both rules of requests), then
        MLFLOW_TRACKING_USERNAME with MLFLOW_TRACKING_PASSWORD, each also from ~/.mlflow/credentials, then
        MLFLOW_TRACKING_TOKEN (`mlflow.utils.rest_utils.http_request`).

        Args:
            host: the server's name.
            userinfo: user and password from the tracking URI.
            environ: the environment's variables.

        Raises:
            UserError: the credentials file cannot be read.
        """
        if (found := netrc_login(host, environ)) is not None:
            return _basic(*found, ".netrc")
        if userinfo is not None:
            return _basic(*userinfo, "the tracking URI")
        user = environ.get("MLFLOW_TRACKING_USERNAME")
        password = environ.get("MLFLOW_TRACKING_PASSWORD")
        user_source = "MLFLOW_TRACKING_USERNAME"
        if not (user and password):
            from_file = _from_file(environ)
            if not user and from_file[0]:
                user, user_source = from_file[0], "~/.mlflow/credentials"
            password = password or from_file[1]
        if user and password:
            return _basic(user, password, user_source)
        if token := environ.get("MLFLOW_TRACKING_TOKEN"):
            token = header_text(token, "MLFLOW_TRACKING_TOKEN")
            return cls("the bearer of MLFLOW_TRACKING_TOKEN", f"Bearer {token}", (token,))
        if user:
            return cls(f"an anonymous user ({user_source} names {user!r}, but there is no password)")
        return cls("an anonymous user (no credentials are set)")


def _basic(user: str, password: str, source: str) -> Credentials:
    encoded = basic(user, password)
    return Credentials(
        f"the user {user!r} (from {source})",
        f"Basic {encoded}",
        tuple(text for text in (password, encoded) if text),
    )


def _from_file(environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    path = home(environ) / ".mlflow" / "credentials"
    if not path.exists():
        return None, None
    import configparser

    parser = configparser.ConfigParser()
    try:
        parser.read(path)
        if "mlflow" not in parser:
            return None, None
        section = parser["mlflow"]
        return section.get("mlflow_tracking_username"), section.get("mlflow_tracking_password")
    except (configparser.Error, UnicodeDecodeError):
        # Its own message may quote the line with the password.
        raise UserError(
            f"{path} cannot be read. Expected a section [mlflow] with mlflow_tracking_username and "
            "mlflow_tracking_password, where a % is written %%."
        ) from None


class TlsSettings:
    """How the server's certificate is checked, and the certificate this side shows.

    Attributes:
        verify: whether it is checked at all.
        authorities: file or directory of certificate authorities to trust; None for the system's.
        client_certificate: file with a certificate and its key; None to show none.
    """

    __slots__ = ("authorities", "client_certificate", "verify")

    def __init__(self, verify: bool, authorities: str | None, client_certificate: str | None) -> None:
        self.verify = verify
        self.authorities = authorities
        self.client_certificate = client_certificate

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> TlsSettings:
        """By MLFLOW_TRACKING_INSECURE_TLS, _SERVER_CERT_PATH and _CLIENT_CERT_PATH, else requests' variables.

        Raises:
            UserError: the variables contradict each other, or name a file that does not exist.
        """
        insecure = flag("MLFLOW_TRACKING_INSECURE_TLS", environ)
        variable = "MLFLOW_TRACKING_SERVER_CERT_PATH"
        authorities = environ.get(variable)
        if insecure and authorities is not None:
            raise UserError(
                "MLFLOW_TRACKING_INSECURE_TLS and MLFLOW_TRACKING_SERVER_CERT_PATH are both set, but only one "
                "of them can hold: unset one."
            )
        if authorities is None and not insecure:
            variable, authorities = authorities_of_requests(environ)
        certificate = environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH")
        for name, path in ((variable, authorities), ("MLFLOW_TRACKING_CLIENT_CERT_PATH", certificate)):
            if path and not Path(path).exists():
                raise UserError(f"{name} names {path}, which does not exist.")
        return cls(not insecure, authorities or None, certificate or None)

    def context(self) -> ssl.SSLContext:
        """The settings as `ssl` wants them.

        Raises:
            UserError: a certificate cannot be read.
        """
        import ssl

        context = trusting(self.authorities, fall_back=self.verify)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.client_certificate:
            try:
                context.load_cert_chain(self.client_certificate, password=_no_password)
            except (ssl.SSLError, OSError, ValueError) as error:
                raise UserError(
                    f"The client certificate {self.client_certificate} (MLFLOW_TRACKING_CLIENT_CERT_PATH) cannot "
                    f"be used: {error}. Expected one PEM file with the certificate and its unencrypted key."
                ) from None
        return context


def _no_password() -> str:
    # Without this OpenSSL would ask at the terminal, and a pipeline would hang.
    raise ValueError("its key is encrypted")
