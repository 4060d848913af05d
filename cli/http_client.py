"""How a verb asks a sidecar over HTTP. Failures become an error line, a hint and an exit code."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import httpx2
import msgspec

from rumormill.cli.exit_codes import BadRequest, Refused, Unreachable

DEFAULT_URL = "http://127.0.0.1:7380"
UNIX = "unix:"
TIMEOUT = 10.0
SAME_FILE_HINT = "give the token file that the sidecar was started with"
T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


class ProblemDetails(msgspec.Struct):
    """The parts of an ``application/problem+json`` that are shown."""

    title: str = ""
    detail: str = ""
    hint: str = ""


class SidecarClient:
    """One sidecar's discovery endpoint. Failures are raised as :class:`CliError` (exit_codes.py)."""

    def __init__(self, url: str, token_file: Path | None, ca: Path | None, cert: Path | None, key: Path | None) -> None:
        self._credentials = (token_file, ca, cert, key)
        headers = {"Authorization": f"Bearer {_read_token(token_file)}"} if token_file else {}
        if url.startswith(UNIX):
            self.url, base, transport = url, "http://localhost", httpx2.HTTPTransport(uds=url.removeprefix(UNIX))
        else:
            self.url = base = _checked_url(url)
            transport = httpx2.HTTPTransport(verify=_tls_context(ca, cert, key))
        # An explicit transport makes httpx2 ignore proxy variables: a sidecar is never behind a proxy.
        self._http = httpx2.Client(base_url=base, headers=headers, timeout=TIMEOUT, transport=transport)

    def at(self, url: str) -> SidecarClient:
        """Another sidecar, asked with the same credentials."""
        return SidecarClient(url, *self._credentials)

    def get(self, path: str, params: Mapping[str, Any], answer: type[T]) -> tuple[T, bytes]:
        """The answer of a GET, decoded and as raw bytes. Parameters that are None are left out."""
        return self._request("GET", path, {key: value for key, value in params.items() if value is not None}, answer)

    def download(self, path: str) -> bytes:
        """The bytes of an answer that is not JSON."""
        with self._translate_errors():
            response = self._http.get(path)
            self._raise_for_problem(response)
        return response.content

    def command(
        self,
        method: str,
        target: str,
        answer: type[T],
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[T, bytes]:
        """Send a command. ``target`` is the path and the query, exactly as they are sent."""
        return self._request(method, target, {}, answer, content, headers)

    def put_policy(self, path: str, answer: type[T], body: Any) -> tuple[T, bytes]:
        """Write a policy: a PUT of ``body`` as JSON."""
        return self.command("PUT", path, answer, msgspec.json.encode(body), {"Content-Type": "application/json"})

    def _request(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any],
        answer: type[T],
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[T, bytes]:
        with self._translate_errors():
            # Empty parameters would remove a query that is part of the path.
            response = self._http.request(method, path, params=params or None, content=content, headers=headers)
            self._raise_for_problem(response)
        return self.read(response.content, answer), response.content

    @contextmanager
    def stream(self, path: str, params: Mapping[str, Any]) -> Iterator[Iterator[str]]:
        """The lines of an endless answer."""
        timeout = httpx2.Timeout(TIMEOUT, read=60.0)
        with self._translate_errors(), self._http.stream("GET", path, params=params, timeout=timeout) as response:
            if response.is_error:
                response.read()
            self._raise_for_problem(response)
            yield response.iter_lines()

    def read(self, body: bytes | str, answer: type[T]) -> T:
        """Decode a sidecar's JSON. Raises :class:`Refused`."""
        try:
            return msgspec.json.decode(body, type=answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refused(
                f"{self.url} does not answer like a sidecar: {error}", "give the address of a sidecar with --http"
            ) from None

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except httpx2.TimeoutException:
            raise Unreachable(
                f"the sidecar at {self.url} does not answer in time", "try another sidecar with --http"
            ) from None
        except httpx2.RemoteProtocolError as error:
            raise Unreachable(
                f"the sidecar at {self.url} closed the connection: {error}", self._hint(str(error))
            ) from None
        except httpx2.TransportError as error:
            reason = _reason(error)
            raise Unreachable(f"no sidecar can be reached at {self.url}: {reason}", self._hint(reason)) from None

    def _hint(self, reason: str) -> str:
        """What to try after a connection failed or was closed."""
        if not self.url.startswith("https:"):
            breaks = "disconnected" in reason
            return (
                "perhaps it needs an https:// address"
                if breaks
                else "start one with `rumormill agent`, or give the address of another with --http"
            )
        if "verify" in reason:
            return "give --http-ca the certificate of the authority that signed the sidecar's"
        if "refused" in reason:
            return "start one with `rumormill agent`, or give the address of another with --http"
        return "it may need your certificate (--http-cert and --http-key), or be an http:// address"

    def _raise_for_problem(self, response: httpx2.Response) -> None:
        if response.is_success:
            return
        try:
            problem = msgspec.json.decode(response.content, type=ProblemDetails)
        except msgspec.DecodeError:
            problem = ProblemDetails()
        if not (problem.detail or problem.title):
            problem = ProblemDetails(
                f"it answers {response.status_code} {response.reason_phrase}",
                hint="it may not be a sidecar; give the address of one with --http",
            )
        hint = problem.hint
        if response.status_code == 401:
            hint = "give --http-token-file (or RUMORMILL_HTTP_TOKEN_FILE) the token file this sidecar was started with"
        raise Refused(f"the sidecar at {self.url} refuses: {problem.detail or problem.title}", hint)


def _checked_url(given: str) -> str:
    """The URL of a sidecar. HOST:PORT, as the agent's --http has it, is accepted too."""
    url = given if "://" in given else f"http://{given}"
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise BadRequest(f"--http {given!r} is not a URL: {error}", f"write it as {DEFAULT_URL}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise BadRequest(f"--http {given!r} is not an http(s) URL", f"write it as {DEFAULT_URL}")
    return url.rstrip("/")


def _read_token(path: Path) -> str:
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise BadRequest(f"token file {path} cannot be read: {reason}", SAME_FILE_HINT) from None
    if not token or not token.isascii() or not token.isprintable():
        raise BadRequest(f"token file {path} must hold one word of printable ASCII characters", SAME_FILE_HINT)
    return token


def _tls_context(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise BadRequest(
            f"--http-ca {ca} cannot be used: {error.strerror or error}", "give a PEM file of certificates"
        ) from None
    if cert is not None:
        try:
            context.load_cert_chain(cert, key)
        except OSError as error:  # ssl.SSLError is one
            raise BadRequest(
                f"--http-cert {cert} cannot be used: {getattr(error, 'reason', None) or error.strerror}",
                "give your certificate, and its key with --http-key; both must be PEM files",
            ) from None
    return context


def _reason(error: httpx2.TransportError) -> str:
    text = str(error).partition("] ")[2] or str(error)
    return text[:1].lower() + text[1:]


def sidecar_options(command: Command) -> Command:
    """Adds the options that select a sidecar. The command gets a :class:`SidecarClient` as its first argument."""

    def with_sidecar(
        http: str,
        http_token_file: Path | None,
        http_ca: Path | None,
        http_cert: Path | None,
        http_key: Path | None,
        **others: Any,
    ) -> Any:
        return command(SidecarClient(http, http_token_file, http_ca, http_cert, http_key), **others)

    with_sidecar.__doc__ = command.__doc__
    with_sidecar.__name__ = command.__name__
    with_sidecar.__dict__.update(command.__dict__)
    for option in (
        _file_option("--http-key", "The key of --http-cert."),
        _file_option("--http-cert", "Your certificate (PEM), if the sidecar requires one."),
        _file_option("--http-ca", "Certificates (PEM) to trust for https."),
        _file_option("--http-token-file", "Bearer token for the sidecar; changes may need another token than reading."),
        click.option(
            "--http",
            metavar="URL",
            envvar="RUMORMILL_HTTP",
            default=DEFAULT_URL,
            show_default=True,
            help="Address of the sidecar; unix:PATH for a Unix socket. Also RUMORMILL_HTTP.",
        ),
    ):
        with_sidecar = option(with_sidecar)
    return with_sidecar  # type: ignore[return-value]


def _file_option(flag: str, about: str) -> Callable[[Command], Command]:
    variable = f"RUMORMILL_{flag.removeprefix('--').replace('-', '_').upper()}"
    return click.option(flag, type=click.Path(path_type=Path), metavar="FILE", envvar=variable, help=about)


def output_option(command: Command) -> Command:
    """``-o json``: the sidecar's answer, unchanged, on one line."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="Output format: table for people, json for programs.",
    )(command)
