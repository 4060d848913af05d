"""Settings: which source wins, which defaults apply, and what is refused with which hint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rumormill.sidecar import Settings, SettingsError, load
from rumormill.sidecar.health.plan import plan_of
from rumormill.sidecar.key_file import read_key_file
from rumormill.sidecar.secrets import is_exposed, read_token_file
from rumormill.sidecar.settings import description_of, fields
from rumormill.sidecar.settings_values import HostPort, Seconds, WorkerUrl

ENOUGH: dict[str, Any] = {
    "name": "w1",
    "cluster": "prod",
    "service": "embed",
    "worker": "http://127.0.0.1:9001",
    "insecure-plaintext": True,
}


def settings(environ: dict[str, str] | None = None, config: Path | None = None, **flags: Any) -> Settings:
    typed = {**ENOUGH, **{name.replace("_", "-"): value for name, value in flags.items()}}
    return load({name: value for name, value in typed.items() if value is not None}, environ or {}, config)


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "agent.toml"
        path.write_text(text)
        return path

    return write


def test_the_defaults_are_those_of_the_design() -> None:
    plain = settings()
    assert (plain.gossip, plain.http) == ("127.0.0.1:7946", "127.0.0.1:7380")
    assert plain.advertise == plain.gossip
    assert plain.worker_url == "http://127.0.0.1:9001"
    assert (plain.period, plain.worker_check_period, plain.drain_time) == (0.2, 1.0, 1.0)
    assert plain.worker_check_timeout == 3.0
    assert (plain.worker_check, plain.weight, plain.join, plain.tag) == ("/health", 1.0, (), {})


def test_a_flag_wins_over_a_variable_and_that_over_the_file_and_that_over_the_default(
    toml: Callable[[str], Path],
) -> None:
    config = toml('zone = "file"\nrelease = "file"\nweight = 3\nkey_file = "k"\ninsecure-plaintext = false')
    environ = {"RUMORMILL_ZONE": "variable", "RUMORMILL_RELEASE": "variable"}
    found = settings(environ, config, zone="flag", insecure_plaintext=None)
    assert (found.zone, found.release, found.weight) == ("flag", "variable", 3.0)
    assert found.key_file == Path("k")
    assert found.drain_time == 1.0
    assert settings({"RUMORMILL_CONFIG": str(config)}, zone=None, insecure_plaintext=None).zone == "file"


def test_several_values_are_repeated_flags_commas_or_a_list(toml: Callable[[str], Path]) -> None:
    seeds = ("pool.example:7946", "[::1]:7947")
    assert settings(join=seeds).join == seeds
    assert settings({"RUMORMILL_JOIN": "pool.example:7946,[::1]:7947"}).join == seeds
    assert settings(config=toml('join = ["pool.example:7946", "[::1]:7947"]')).join == seeds
    assert settings(config=toml('join = "pool.example:7946"')).join == seeds[:1]
    assert settings(tag=("gpu=a100", "rack=r=7")).tag == {"gpu": "a100", "rack": "r=7"}
    assert settings({"RUMORMILL_TAG": "gpu=a100,x="}).tag == {"gpu": "a100", "x": ""}
    assert settings(config=toml("[tag]\ngpu = 'a100'")).tag == {"gpu": "a100"}


def test_formats_are_turned_off_by_name() -> None:
    assert settings(disable_format=("consul", "text")).disable_format == ("consul", "text")
    with pytest.raises(SettingsError, match="holds an unknown name") as refused:
        settings({"RUMORMILL_DISABLE_FORMAT": "consull"})
    assert refused.value.hint == "the known ones are consul, envoy, prometheus, text, traefik"


def test_a_variable_may_be_the_url_that_readers_use() -> None:
    assert settings({"RUMORMILL_HTTP": "http://127.0.0.1:7381"}).http == "127.0.0.1:7381"


def test_variables_set_by_kubernetes_are_not_refused_as_typos() -> None:
    links = {
        "RUMORMILL_SERVICE_HOST": "10.0.0.1",
        "RUMORMILL_SERVICE_PORT": "7380",
        "RUMORMILL_SERVICE_PORT_HTTP": "7380",
        "RUMORMILL_PORT": "tcp://10.0.0.1:7380",
        "RUMORMILL_PORT_7380_TCP_ADDR": "10.0.0.1",
        "RUMORMILL_SEEDS_SERVICE_HOST": "10.0.0.2",
    }
    assert settings(links).service == "embed"


def test_the_endpoint_may_be_a_unix_socket() -> None:
    found = settings(http="unix:/run/rumormill/w1.sock").http
    assert (found, found.path, found.local) == ("unix:/run/rumormill/w1.sock", Path("/run/rumormill/w1.sock"), True)
    assert settings(http="unix:///run/w1.sock").http == "unix:/run/w1.sock"
    assert settings(http="0.0.0.0:7380", http_insecure=True).http.path is None


def test_host_names_are_resolved_and_ipv6_is_spelt_one_way() -> None:
    assert settings(gossip="localhost:7000").gossip in ("127.0.0.1:7000", "[::1]:7000")
    assert settings(gossip="[0:0:0:0:0:0:0:1]:7000").gossip == "[::1]:7000"
    found = settings(
        gossip="[::]:7946", advertise="[fd00::5]:7946", advertise_worker="https://gpu5.example/v1/", http="[::1]:1"
    )
    assert found.advertised_address.host == "fd00::5"
    assert found.worker_url == "https://gpu5.example/v1"


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"gossip": "0.0.0.0:7946"}, "listens on every address", "--advertise 10.0.0.5:7946"),
    ({"gossip": "::1:7946"}, "is ambiguous", "in brackets: [::1]:PORT"),
    ({"gossip": "[::1:7946"}, "is not an IPv6 address in brackets", "[::1]:7946"),
    ({"gossip": "127.0.0.1"}, "has no port", "127.0.0.1:PORT"),
    ({"gossip": ":7946"}, "has no host", "127.0.0.1:7946"),
    ({"gossip": "127.0.0.1:79460"}, "'79460' is not a port", "up to 65535"),
    ({"gossip": "127.0.0.1:x"}, "'x' is not a port", "up to 65535"),
    ({"gossip": "no.such.host.invalid:1"}, "does not resolve", "give an IP address"),
    ({"gossip": "10.0.0.5:7946"}, "their own loopback", "--advertise-worker http://10.0.0.5:9001"),
    ({"advertise": "[::1]:7946"}, "different IP versions", "IPv4 or IPv6 for both"),
    ({"advertise": "0.0.0.0:7946"}, "not the address of one machine", "other sidecars reach"),
    ({"advertise": "224.0.0.1:7946"}, "not the address of one machine", "other sidecars reach"),
    ({"worker": "127.0.0.1:9001"}, "is not an http(s) URL", "http://127.0.0.1:9001"),
    ({"worker": "ftp://x"}, "is not an http(s) URL", "http://127.0.0.1:9001"),
    ({"worker": "http://u:secret@x"}, "the URL holds a password", "remove user:password@"),
    ({"worker": "http://x:99999"}, "is not a URL", "http://127.0.0.1:9001"),
    ({"worker": "http://x/?a=b"}, "has a query", "at most a path"),
    ({"worker": "http://" + "x" * 300}, "more than 256 bytes", "shorter"),
    ({"worker": "http://0.0.0.0:9001"}, "callers cannot be sent to", "http://127.0.0.1:9001"),
    ({"engine": "vlm"}, "--engine 'vlm' is not known", "did you mean 'vllm'?"),
    ({"engine": "llamacpp"}, "--engine 'llamacpp' is not known", "did you mean 'llama.cpp'?"),
    ({"engine": "xyzzy"}, "--engine 'xyzzy' is not known", "the known ones are vllm, sglang, triton"),
    ({"stall_time": "0s"}, "--stall-time 0ms is out of range", "100ms to 3600s"),
    ({"restart_after": "10ms"}, "--restart-after 10ms is out of range", "1000ms to 86400s"),
    ({"worker_capacity": "0"}, "--worker-capacity: '0' is not a whole number above 0", "a number like 64"),
    ({"worker_metrics": "127.0.0.1:8002"}, "is not an http(s) URL", "http://127.0.0.1:9001"),
    ({"worker_check": "health"}, "is not a path", "/health"),
    ({"worker_check": "none"}, "leaves nobody to look at the worker", "add --probe or --probe-file"),
    ({"worker_check": "none", "probe": "none"}, "leaves nobody to look at the worker", "add --probe or --probe-file"),
    ({"worker_check": "/a b"}, "is not a path", "/health"),
    ({"worker_check_period": "1"}, "'1' is not a duration", "200ms, 1s"),
    ({"worker_check_period": "0s"}, "out of range", "20ms to 3600s"),
    ({"worker_check_timeout": "0s"}, "out of range", "20ms to 3600s"),
    ({"period": "-1s"}, "is not a duration", "write it with a unit"),
    ({"period": "1h"}, "out of range", "20ms to 10s"),
    ({"worker_pid": "1abc"}, "--worker-pid: '1abc' is not a whole number above 0", "a number like 4711"),
    ({"worker_pid": "4194305"}, "--worker-pid: '4194305' is not a whole number above 0", "or auto"),
    ({"worker_pid": "auto", "worker": "http://192.0.2.1:9001"}, "needs a worker on this machine", "beside the worker"),
    ({"worker_pid": "0"}, "--worker-pid: '0' is not a whole number above 0", "a number like 4711"),
    ({"weight": "heavy"}, "--weight: 'heavy' is not a number from 0 to 1000", "1 or 0.5"),
    ({"weight": "1001"}, "--weight: '1001' is not a number from 0 to 1000", "1 or 0.5"),
    ({"weight": "0.0001"}, "less than 0.001", "0 for no traffic"),
    ({"weight": "nan"}, "--weight: 'nan' is not a number from 0 to 1000", "1 or 0.5"),
    ({"weight": "inf"}, "--weight: 'inf' is not a number from 0 to 1000", "1 or 0.5"),
    ({"name": ""}, "--name: it is empty", "give a name"),
    ({"name": "x" * 129}, "--name: it is longer than 128 characters", "shorter"),
    ({"name": "a\nb"}, "name holds characters that cannot be printed", "line breaks, tabs"),
    ({"name": "ü" * 65}, "name is longer than 128 bytes", "shorter"),
    ({"tag": ("novalue",)}, "a tag needs a key and a value", "KEY=VALUE"),
    ({"tag": ("k=" + "v" * 600,)}, "tags take more than 512 bytes", "shorter"),
    (
        {"tag": ("k=" + "v" * 500,), "service": "s" * 128, "name": "n" * 128, "release": "r" * 64},
        "1000 bytes",
        "shorter",
    ),
    ({"http": "0.0.0.0:7380"}, "would answer anyone on the network", "--http-token-file"),
    ({"http": "0.0.0.0:7380"}, "would answer anyone on the network", "--http-insecure"),
    ({"http": "0.0.0.0:7380", "http_cert": "c", "http_key": "k"}, "would answer anyone", "--http-ca"),
    ({"http": "0.0.0.0:7380", "http_change_token_file": "t"}, "would answer anyone", "--http-token-file"),
    ({"http_cert": "c.pem"}, "need each other", "give both"),
    ({"http_ca": "ca.pem"}, "--http-ca needs TLS", "--http-cert and --http-key"),
    (
        {"http_token_file": "t", "http_insecure": True},
        "--http-insecure excludes --http-token-file",
        "remove one of them",
    ),
    ({"http": "unix:rumormill.sock"}, "has no absolute path", "unix:/run/rumormill"),
    ({"http": "unix:/run/"}, "has no absolute path", "unix:/run/rumormill"),
    ({"http": "unix:/" + "x" * 107}, "is longer than 107 bytes", "choose a shorter path"),
    (
        {"http": "unix:/s", "http_cert": "c", "http_key": "k"},
        "TLS is not available on a Unix socket",
        "remove --http-cert",
    ),
    ({"insecure_plaintext": None}, "there is no key", "rumormill keys generate --out rumormill.key"),
    ({"key_file": "k"}, "exclude each other", "remove one of them; a key file can also"),
    ({"join": ("10.0.0.1:0",)}, "has port 0", "gossip port"),
    ({"join": ("0.0.0.0:1",)}, "not the address of one machine", "the address of one member"),
    (
        {"join": ("198.51.100.7:1",)},
        "--gossip 127.0.0.1:7946 is a loopback address, so --join 198.51.100.7:1 on another machine cannot be reached",
        "--gossip ",
    ),
    (
        {"join": ("localhost:1", "198.51.100.7:1"), "gossip": "0.0.0.0:7000", "advertise": "127.0.0.1:7000"},
        "--advertise 127.0.0.1:7000 is a loopback address",
        ":7000",
    ),
    ({"join": ("[2001:db8::7]:1",), "gossip": "[::1]:7946"}, "--gossip [::1]:7946 is a loopback address", ":7946"),
    ({"name": None, "cluster": None}, "the agent needs --name and --cluster", "for example: rumormill agent"),
]


@pytest.mark.parametrize(("flags", "message", "hint"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_setting_is_refused_in_one_line_with_a_hint(flags: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings(**flags)
    assert message in refused.value.message
    assert hint in refused.value.hint
    assert "\n" not in refused.value.message + refused.value.hint


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('nmae = "w1"', "unknown setting 'nmae'", "did you mean 'name'?"),
        ('worker-check-perod = "1s"', "unknown setting 'worker-check-perod'", "did you mean 'worker-check-period'?"),
        ("xyzzy = 1", "unknown setting 'xyzzy'", "the known ones are advertise, "),
        ("name = w1", "is not TOML: invalid value (at line 1", 'cluster = "prod"'),
        ("zone = 7", "7 is not text", "put it in quotes"),
        ("weight = nan", "nan is not a number from 0 to 1000", "1 or 0.5"),
        ("weight = true", "True is not a number from 0 to 1000", "1 or 0.5"),
        ("worker-pid = 1.5", "1.5 is not a whole number above 0", "a number like 4711"),
        ('http-insecure = "maybe"', "'maybe' is neither true nor false", "without quotes in TOML"),
        ("join = 7", "7 is not a list", '["HOST:PORT", "HOST:PORT"]'),
        ("[tag]\ngpu = 1", "a tag needs a key and a value", 'key = "value" below [tag]'),
        ('[agent]\nname = "w1"', "has a table [agent]", "delete the line [agent]"),
        ("period = 0.2", "0.2 is not a duration", "write it with a unit"),
        ("gossip = 7946", "an address must be a quoted text", '"HOST:PORT"'),
        ("key-file = 5", "5 is not a file name", "in quotes"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(toml: Callable[[str], Path], text: str, message: str, hint: str) -> None:
    config = toml(text)
    with pytest.raises(SettingsError) as refused:
        settings(config=config)
    assert message in refused.value.message
    assert str(config) in refused.value.message
    assert hint in refused.value.hint


def test_a_file_that_is_not_there_and_a_misspelt_variable(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read .*: No such file"):
        settings(config=tmp_path / "none.toml")
    with pytest.raises(SettingsError, match="unknown variable RUMORMILL_KEYFILE") as refused:
        settings({"RUMORMILL_KEYFILE": "x"})
    assert refused.value.hint == "did you mean 'RUMORMILL_KEY_FILE'?"
    with pytest.raises(SettingsError, match="RUMORMILL_WEIGHT: 'much' is not a number"):
        settings({"RUMORMILL_WEIGHT": "much"})


def test_every_setting_has_a_description() -> None:
    for field in fields():
        about, metavar = description_of(field)
        assert about.endswith(".")
        assert metavar == metavar.upper()


def test_loopback_may_join_what_is_on_this_machine() -> None:
    assert settings(join=("127.0.0.2:7946", "localhost:7946", "elsewhere.example:7946"))
    assert settings(
        join=("198.51.100.7:7946",), gossip="0.0.0.0:7946", advertise="10.0.0.5:7946", advertise_worker="http://h"
    )
    own = HostPort("127.0.0.1", 1)
    assert own.of_this_machine
    assert not HostPort("198.51.100.7", 1).of_this_machine


def test_an_engine_sets_how_the_worker_is_checked_and_a_setting_wins_over_it() -> None:
    sglang = settings(engine="sglang")
    assert (sglang.worker_check, sglang.worker_check_timeout) == ("/health", 5.0)
    triton = settings(engine="triton", worker_check="/v2/health/live", worker_check_timeout="500ms")
    assert (triton.worker_check, triton.worker_check_timeout) == ("/v2/health/live", 0.5)
    made = plan_of(triton, None, None)
    assert made.counters is not None
    assert f"{made.counters.url}{made.counters.path}" == "http://127.0.0.1:8002/metrics"
    elsewhere = plan_of(settings(engine="triton", worker_metrics="http://127.0.0.1:9/m", worker_capacity=4), None, None)
    assert elsewhere.counters is not None
    assert (f"{elsewhere.counters.url}{elsewhere.counters.path}", elsewhere.counters.capacity) == (
        "http://127.0.0.1:9/m",
        4,
    )
    assert plan_of(settings(), None, None).counters is None


def test_values_print_as_they_are_written() -> None:
    assert str(HostPort.parse("[::1]:7946")) == "[::1]:7946"
    assert (HostPort("::1", 5).host, HostPort("h", 5).port) == ("::1", 5)
    assert [str(Seconds.parse(text)) for text in ("200ms", "1s", "1.5s", ".5m")] == ["200ms", "1s", "1.5s", "30s"]
    assert WorkerUrl.parse("https://h/a/").endpoint == "h:443"


def private(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def test_a_key_file_is_read(tmp_path: Path) -> None:
    new, old = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    ring = read_key_file(private(tmp_path / "k", f"# the old one comes second\n{new}\n{old}  # and goes soon\n{new}\n"))
    assert (ring.ring.keys, ring.version) == ((b"\1" * 32, bytes(32)), 0)


@pytest.mark.parametrize(
    ("text", "mode", "message", "hint"),
    [
        ("AAAA", 0o644, "can be read by others (mode 0644)", "chmod 600"),
        ("AAAA", 0o600, "line 1 holds 3 bytes", "rumormill keys generate --out"),
        ("!", 0o600, "line 1 is not base64", "rumormill keys generate --out"),
        ("\n", 0o600, "there is no key in it", "rumormill keys generate --out"),
        (b"\xff\xfe", 0o600, "is not text", "rumormill keys generate --out"),
        ("A" * 70_000, 0o600, "is longer than", "rumormill keys generate --out"),
    ],
)
def test_a_key_file_that_will_not_do(tmp_path: Path, text: str | bytes, mode: int, message: str, hint: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_key_file(private(tmp_path / "k", text, mode))
    assert message in refused.value.message
    assert hint in refused.value.hint


def test_only_the_owner_and_our_groups_may_read_a_secret(tmp_path: Path) -> None:
    path = private(tmp_path / "k", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n", 0o440)
    assert read_key_file(path).ring.keys == (bytes(32),)
    group = path.stat().st_gid
    for mode, ours_may, others_may in (
        (0o400, True, True),
        (0o600, True, True),
        (0o440, True, False),
        (0o640, True, False),
        (0o660, True, False),
        (0o650, False, False),
        (0o444, False, False),
        (0o641, False, False),
    ):
        path.chmod(mode)
        assert is_exposed(path.stat(), frozenset({group})) is not ours_may, oct(mode)
        assert is_exposed(path.stat(), frozenset({group + 1})) is not others_may, oct(mode)


def test_a_key_file_that_is_not_there_or_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        read_key_file(tmp_path / "k")
    assert refused.value.hint == f"rumormill keys generate --out {tmp_path / 'k'}"
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        read_key_file(tmp_path)


def test_a_token_is_one_word(tmp_path: Path) -> None:
    assert read_token_file(private(tmp_path / "t", "s3cret\n")) == "s3cret"
    for text in ("", "two words", "ü"):
        with pytest.raises(SettingsError, match="must hold one word"):
            read_token_file(private(tmp_path / "t", text))
