"""How a verb asks a sidecar over HTTP, and what it says when that fails: one line, a hint, an exit code."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import httpx
import msgspec

from rumormill.cli.exit_codes import BadRequest, Refused, Unreachable

DEFAULT_URL = "http://127.0.0.1:7380"
UNIX = "unix:"
TIMEOUT = 10.0
OWN_FILE = "give the file that the sidecar was started with"
T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


class ShownProblem(msgspec.Struct):
    """As much of an ``application/problem+json`` as is shown."""

    title: str = ""
    detail: str = ""
    hint: str = ""


class SidecarClient:
    """One sidecar's discovery endpoint. What goes wrong is raised as a kind of Trouble (exit_codes.py)."""

    def __init__(self, url: str, token_file: Path | None, ca: Path | None, cert: Path | None, key: Path | None) -> None:
        headers = {"Authorization": f"Bearer {_read_token(token_file)}"} if token_file else {}
        if url.startswith(UNIX):
            self.url, base, transport = url, "http://localhost", httpx.HTTPTransport(uds=url.removeprefix(UNIX))
        else:
            self.url = base = _checked_url(url)
            transport = httpx.HTTPTransport(verify=_trust(ca, cert, key))
        # With a transport of its own the client asks no proxy of the environment: a sidecar is a neighbour.
        self._http = httpx.Client(base_url=base, headers=headers, timeout=TIMEOUT, transport=transport)

    def get(self, path: str, params: Mapping[str, Any], answer: type[T]) -> tuple[T, bytes]:
        """The answer of a GET, read and as it came. Parameters that are None are left out."""
        return self._ask("GET", path, {key: value for key, value in params.items() if value is not None}, answer)

    def command(
        self,
        method: str,
        target: str,
        answer: type[T],
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[T, bytes]:
        """Make the sidecar do something. ``target`` is path and query, as they are sent."""
        return self._ask(method, target, {}, answer, content, headers)

    def steer(self, path: str, answer: type[T], body: Any) -> tuple[T, bytes]:
        """Write a policy: a PUT of ``body`` as JSON."""
        return self.command("PUT", path, answer, msgspec.json.encode(body), {"Content-Type": "application/json"})

    def _ask(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any],
        answer: type[T],
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[T, bytes]:
        with self._troubles():
            # Without parameters the target is left as it is written, a query in it included.
            response = self._http.request(method, path, params=params or None, content=content, headers=headers)
            self._check(response)
        return self.read(response.content, answer), response.content

    @contextmanager
    def stream(self, path: str, params: Mapping[str, Any]) -> Iterator[Iterator[str]]:
        """The lines of an answer that does not end by itself."""
        timeout = httpx.Timeout(TIMEOUT, read=60.0)
        with self._troubles(), self._http.stream("GET", path, params=params, timeout=timeout) as response:
            if response.is_error:
                response.read()
            self._check(response)
            yield response.iter_lines()

    def read(self, body: bytes | str, answer: type[T]) -> T:
        """JSON to what a sidecar answers."""
        try:
            return msgspec.json.decode(body, type=answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refused(
                f"{self.url} does not answer like a sidecar: {error}", "name a sidecar's own address with --http"
            ) from None

    @contextmanager
    def _troubles(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException:
            raise Unreachable(f"the sidecar at {self.url} does not answer in time", "ask another with --http") from None
        except httpx.RemoteProtocolError as error:
            raise Unreachable(f"the sidecar at {self.url} broke off: {error}", self._hint(str(error))) from None
        except httpx.TransportError as error:
            reason = _reason(error)
            raise Unreachable(f"no sidecar can be reached at {self.url}: {reason}", self._hint(reason)) from None

    def _hint(self, reason: str) -> str:
        """What to try where a connection did not come about or broke off."""
        if not self.url.startswith("https:"):
            breaks = "disconnected" in reason
            return (
                "is it an https:// address?"
                if breaks
                else "start one with rumormill agent, or name another with --http"
            )
        if "verify" in reason:
            return "give --http-ca the authority that signed its certificate"
        if "refused" in reason:
            return "start one with rumormill agent, or name another with --http"
        return "it may ask for a certificate of yours: --http-cert and --http-key; or be an http:// address"

    def _check(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        try:
            problem = msgspec.json.decode(response.content, type=ShownProblem)
        except msgspec.DecodeError:
            problem = ShownProblem()
        if not (problem.detail or problem.title):
            problem = ShownProblem(
                f"it answers {response.status_code} {response.reason_phrase}",
                hint="is it a sidecar? Name one's own address with --http",
            )
        hint = problem.hint
        if response.status_code == 401:
            hint = "give --http-token-file (or RUMORMILL_HTTP_TOKEN_FILE) the file this sidecar was started with"
        raise Refused(f"the sidecar at {self.url} refuses: {problem.detail or problem.title}", hint)


def _checked_url(given: str) -> str:
    """The agent's own spelling (HOST:PORT) will do as well."""
    url = given if "://" in given else f"http://{given}"
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise BadRequest(f"--http {given!r} is not a URL: {error}", f"write it as {DEFAULT_URL}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise BadRequest(f"--http {given!r} is not an http(s) URL", f"write it as {DEFAULT_URL}")
    return url.rstrip("/")


def _read_token(path: Path) -> str:
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise BadRequest(f"token file {path} cannot be read: {reason}", OWN_FILE) from None
    if not token or not token.isascii() or not token.isprintable():
        raise BadRequest(f"token file {path} does not hold one word", OWN_FILE)
    return token


def _trust(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise BadRequest(f"--http-ca {ca} cannot be used: {error.strerror or error}", "give it a PEM file") from None
    if cert is not None:
        try:
            context.load_cert_chain(cert, key)
        except OSError as error:  # ssl.SSLError is one
            raise BadRequest(
                f"--http-cert {cert} cannot be used: {getattr(error, 'reason', None) or error.strerror}",
                "give it your certificate and --http-key its key, both PEM",
            ) from None
    return context


def _reason(error: httpx.TransportError) -> str:
    text = str(error).partition("] ")[2] or str(error)
    return text[:1].lower() + text[1:]


def sidecar_options(command: Command) -> Command:
    """Adds the options that say which sidecar is asked, and hands the command a :class:`SidecarClient` first."""

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
        _file_option("--http-cert", "Your own certificate (PEM), where the sidecar asks for one."),
        _file_option("--http-ca", "PEM certificates to trust, for https."),
        _file_option("--http-token-file", "The token the sidecar asks for; changes may need another than reading."),
        click.option(
            "--http",
            metavar="URL",
            envvar="RUMORMILL_HTTP",
            default=DEFAULT_URL,
            show_default=True,
            help="The sidecar to ask (unix:PATH for its socket), or RUMORMILL_HTTP.",
        ),
    ):
        with_sidecar = option(with_sidecar)
    return with_sidecar  # type: ignore[return-value]


def _file_option(flag: str, about: str) -> Callable[[Command], Command]:
    variable = f"RUMORMILL_{flag.removeprefix('--').replace('-', '_').upper()}"
    return click.option(flag, type=click.Path(path_type=Path), metavar="FILE", envvar=variable, help=about)


def output_option(command: Command) -> Command:
    """``-o json``: what the sidecar answered, as it came, one line."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="For people, or for programs.",
    )(command)
