"""How a verb asks a sidecar over HTTP. Failures become an error line, a hint and an exit code."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode, urlsplit

import click
import msgspec

from rumormill.cli.exit_codes import BadRequest, Refused, Unreachable

DEFAULT_URL = "http://127.0.0.1:7380"
UNIX = "unix:"
TIMEOUT = 10.0
STREAM_TIMEOUT = 60.0
"""Seconds between two lines."""
SAME_FILE_HINT = "give the token file that the sidecar was started with"
T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


class ProblemDetails(msgspec.Struct):
    """The parts of an ``application/problem+json`` that are shown."""

    title: str = ""
    detail: str = ""
    hint: str = ""


class HttpAnswer(NamedTuple):
    """A whole answer."""

    status: int
    reason: str
    content: bytes


class _UnixConnection(http.client.HTTPConnection):
    """To a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class SidecarClient:
    """One sidecar's discovery endpoint. Failures are raised as :class:`CliError` (exit_codes.py).

    Each request has a connection of its own, never through a proxy. The standard library's client starts in a tenth of
    the time that httpx2 takes.
    """

    def __init__(self, url: str, token_file: Path | None, ca: Path | None, cert: Path | None, key: Path | None) -> None:
        self._credentials = (token_file, ca, cert, key)
        self.token = _read_token(token_file) if token_file else ""
        self._headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        self.url = url if url.startswith(UNIX) else _checked_url(url)
        self._tls = _tls_context(ca, cert, key) if self.url.startswith("https:") else None

    def at(self, url: str) -> SidecarClient:
        """Another sidecar, asked with the same credentials."""
        return SidecarClient(url, *self._credentials)

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self.url.startswith(UNIX):
            return _UnixConnection(self.url.removeprefix(UNIX), timeout)
        parts = urlsplit(self.url)
        if self._tls is not None:
            return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=timeout, context=self._tls)
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        prefix = "" if self.url.startswith(UNIX) else urlsplit(self.url).path
        body = content if content or method != "GET" else None
        connection.request(method, prefix + target, body, {**self._headers, **(headers or {})})
        return connection.getresponse()

    def get(self, path: str, params: Mapping[str, Any], answer: type[T]) -> tuple[T, bytes]:
        """The answer of a GET, decoded and as raw bytes. Parameters that are None are left out."""
        return self._request("GET", path, {key: value for key, value in params.items() if value is not None}, answer)

    def download(self, path: str) -> bytes:
        """The bytes of an answer that is not JSON."""
        return self._exchange("GET", path).content

    def wall_clock(self) -> float:
        """The sidecar's wall clock, in seconds since the epoch, exact to about a second."""
        with self._translate_errors(), closing(self._connection(TIMEOUT)) as connection:
            date = self._send(connection, "GET", "/livez").getheader("Date", "")
        try:
            return parsedate_to_datetime(date).timestamp()
        except ValueError:
            raise Refused(f"{self.url} does not say what time it is", "give the address of a sidecar") from None

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
        target = f"{path}?{urlencode(params)}" if params else path
        body = self._exchange(method, target, content, headers).content
        return self.read(body, answer), body

    def _exchange(
        self, method: str, target: str, content: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> HttpAnswer:
        with self._translate_errors(), closing(self._connection(TIMEOUT)) as connection:
            response = self._send(connection, method, target, content, headers)
            answered = HttpAnswer(response.status, response.reason, response.read())
        self._raise_for_problem(answered)
        return answered

    @contextmanager
    def stream(self, path: str, params: Mapping[str, Any]) -> Iterator[Iterator[str]]:
        """The lines of an endless answer."""
        target = f"{path}?{urlencode(params)}" if params else path
        with closing(self._connection(STREAM_TIMEOUT)) as connection:
            with self._translate_errors():
                response = self._send(connection, "GET", target)
                content = b"" if response.status == http.HTTPStatus.OK else response.read()
            self._raise_for_problem(HttpAnswer(response.status, response.reason, content))
            yield self._lines(response)

    def _lines(self, response: http.client.HTTPResponse) -> Iterator[str]:
        while True:
            with self._translate_errors():
                line = response.readline()
            if not line:
                return
            yield line.decode(errors="replace").rstrip("\r\n")

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
        except TimeoutError:
            raise Unreachable(
                f"the sidecar at {self.url} does not answer in time", "try another sidecar with --http"
            ) from None
        except (http.client.HTTPException, ConnectionResetError, BrokenPipeError) as error:
            reason = _reason(error)
            raise Unreachable(
                f"the sidecar at {self.url} closed the connection: {reason}", self._hint(reason)
            ) from None
        except OSError as error:
            reason = _reason(error)
            raise Unreachable(f"no sidecar can be reached at {self.url}: {reason}", self._hint(reason)) from None

    def _hint(self, reason: str) -> str:
        """What to try after a connection failed or was closed."""
        if not self.url.startswith("https:"):
            breaks = "without an answer" in reason or "reset by peer" in reason
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

    def _raise_for_problem(self, response: HttpAnswer) -> None:
        if 200 <= response.status <= 299:
            return
        try:
            problem = msgspec.json.decode(response.content, type=ProblemDetails)
        except msgspec.DecodeError:
            problem = ProblemDetails()
        if not (problem.detail or problem.title):
            problem = ProblemDetails(
                f"it answers {response.status} {response.reason}",
                hint="it may not be a sidecar; give the address of one with --http",
            )
        hint = problem.hint
        if response.status == 401:
            hint = "give --http-token-file (or RUMORMILL_HTTP_TOKEN_FILE) the token file this sidecar was started with"
        raise Refused(f"the sidecar at {self.url} refuses: {problem.detail or problem.title}", hint)


def _checked_url(given: str) -> str:
    """The URL of a sidecar. HOST:PORT, as the agent's --http has it, is accepted too."""
    url = given if "://" in given else f"http://{given}"
    try:
        parsed = urlsplit(url)
        parsed.port  # noqa: B018  reading it is what checks it
    except ValueError as error:
        raise BadRequest(f"--http {given!r} is not a URL: {error}", f"write it as {DEFAULT_URL}") from None
    if parsed.scheme not in ("http", "https") or not parsed.hostname or not url.isascii() or not url.isprintable():
        raise BadRequest(f"--http {given!r} is not an http(s) URL", f"write it as {DEFAULT_URL}")
    return _of_this_machine(url.rstrip("/"), parsed.hostname)


def _of_this_machine(url: str, host: str) -> str:
    """Ask a wildcard, at which an agent listens, on the loopback address."""
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host)  # noqa: S104  nothing is bound here
    return url if loopback is None else url.replace(f"[{host}]" if ":" in host else host, _bracketed(loopback), 1)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


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


def _reason(error: Exception) -> str:
    match error:
        case http.client.RemoteDisconnected():
            return "it ended without an answer"
        case http.client.IncompleteRead():
            return "its answer ended too early"
        case http.client.HTTPException():
            return "what it answers is not HTTP"
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
            help="Address of the sidecar; unix:PATH for a Unix socket. Also RUMORMILL_HTTP, as the agent has it.",
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
