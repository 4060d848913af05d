"""A probe file is checked whole, and an error names the file, the line, and what to write."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumormill.sidecar import SettingsError
from rumormill.sidecar.probes.build import PROBE_NAMES, build_probe, default_spec, probe_spec
from rumormill.sidecar.probes.probe_check import BadProbe
from rumormill.sidecar.probes.probe_file import parse_probe, read_probe_file
from rumormill.sidecar.probes.specification import KINDS, ChatSpec, EmbeddingsSpec, KserveSpec, TcpSpec
from rumormill.sidecar.probes.toml_lines import line_of
from rumormill.sidecar.settings_values import WorkerUrl

TENSOR = 'kind = "kserve"\nmodel = "m"\n\n[[inputs]]\nname = "x"\ndatatype = "FP32"\nshape = [1, 2]\ndata = [1.0, 2]\n'
WORKER = WorkerUrl.parse("http://127.0.0.1:9001")


def refusal(folder: Path, text: str) -> tuple[str, str]:
    """What is said of a probe file, without the folder."""
    path = folder / "probe.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as error:
        read_probe_file(path)
    return error.value.message.replace(f"{folder}/", ""), error.value.hint.replace(f"{folder}/", "")


EMBEDDINGS, CHAT, HTTP = 'kind = "embeddings"\n', 'kind = "chat"\n', 'kind = "http"\npath = "/x"\n'
MISTAKES = [
    # what is in the file, what is said of it, what to do
    ("", "probe.toml: there is no kind", "the kinds are embeddings, chat"),
    ('kind = "chatt"', "probe.toml, line 1: 'chatt' is not a kind of probe", "did you mean 'chat'?"),
    ("kind = \n", "probe.toml: it is not TOML: Invalid value (at line 1, column 8)", 'kind = "chat"'),
    (CHAT + '\nmodle = "m"', "probe.toml, line 3: unknown key 'modle'", "did you mean 'model'?"),
    (CHAT + '[expect]\npatern = "x"', "probe.toml, line 3: unknown key 'patern'", "'pattern'?"),
    (CHAT + '[expect]\nlength = 3', "probe.toml, line 3: unknown key 'length'", "pattern"),
    (CHAT + 'budget = 5', "probe.toml, line 2: budget: 5 is not a duration", "200ms, 1s"),
    (CHAT + 'budget = "5s"', "line 2: the budget 5s is longer than give-up 3s", "set give-up to more"),
    (CHAT + 'tokens = "one"', "line 2: tokens: expected `int`, got `str`", "docs/run/probes.md"),
    (EMBEDDINGS + '[expect]\nlength = 3\ngolden = [1, 2]', "line 4: golden has 2 numbers, and length is 3", "--record"),
    (EMBEDDINGS + '[expect]\ngolden = [1, nan]', "line 3: golden is not a finite vector", "--record"),
    (EMBEDDINGS + '[expect]\ngolden = [0, 0]', "line 3: golden is not a finite vector", "--record"),
    (CHAT + '[expect.schema]\ntype = "objct"', "line 2: schema: it is not a JSON Schema: Unknown type", "draft-07"),
    (
        CHAT + '[expect.schema.properties.data]\n\nminItem = 3',
        "line 4: schema: 'minItem' is not a keyword of draft 7",
        "did you mean 'minItems'?",
    ),
    (CHAT + '[expect]\npattern = "("', "line 3: pattern '(' is not a regular expression", "single quotes"),
    (CHAT + 'api_key_file = "no.key"', "line 2: api-key-file: token file no.key does not exist", "no.key"),
    (CHAT + 'api-key-file = "open.key"', "open.key can be read by others (mode 0644)", "chmod 600 open.key"),
    (CHAT + '[headers]\nAuthorization = "Bearer x"', "line 3: Authorization holds a secret", "api-key-file ="),
    (CHAT + '[headers]\nX-A = "a\\nb"', "line 3: the value of X-A is not printable ASCII", "line breaks"),
    (CHAT + '[headers]\n"X A" = "a"', "line 3: 'X A' is not the name of a header", "X-Tenant"),
    (EMBEDDINGS + '[expect]\nnorm = 1\ngolden-tolerance = nan', "line 4: expect.golden-tolerance: expected", ""),
    (CHAT + 'stream = true\n[expect.schema]\ntype = "object"', "line 3: a stream has no one answer", "pattern"),
    (TENSOR.replace("\n\n", '\ntarget = "x:1"\n\n'), "line 3: target is for gRPC", 'transport = "grpc"'),
    (TENSOR.replace("\n\n", '\ntransport = "grpc"\npath = "/x"\n\n'), "line 4: path is not used with gRPC", "remove"),
    ('kind = "http"', "probe.toml: 'path' is missing", "add path ="),
    ('kind = "http"\npath = "x"', "line 2: path 'x' does not begin with a slash", "/v1/embeddings"),
    (HTTP + '[body]\na = 1', "line 3: a GET has no body", 'method = "POST"'),
    (HTTP + '[expect]\nlength = 3', "it is not said where in the answer", 'vector = "data'),
    (TENSOR.replace("[1, 2]", "[1, 3]"), "line 8: input 'x' has 2 numbers, and its shape [1, 3] needs 3", "agree"),
    (TENSOR.replace("datatype", "datatipe"), "line 6: unknown key 'datatipe'", "did you mean 'datatype'?"),
    ('kind = "kserve"\nmodel = "m"', "'inputs' is missing", "add inputs ="),
    ('kind = "command"\ncommand = ["no-such-program"]', "line 2: the program 'no-such-program' is not found", "path"),
    ('kind = "tcp"\ntarget = "x"', "line 2: target: 'x' has no port", "x:PORT"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message", "hint"), MISTAKES)
def test_a_mistake_is_refused_with_the_line_to_fix(tmp_path: Path, text: str, message: str, hint: str) -> None:
    (tmp_path / "open.key").write_text("key")
    (tmp_path / "open.key").chmod(0o644)
    said, advice = refusal(tmp_path, text)
    assert message in said
    assert hint in advice


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "no.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(SettingsError, match=why):
            read_probe_file(path)


def test_a_key_file_is_looked_for_beside_the_probe_file(tmp_path: Path) -> None:
    (tmp_path / "engine.key").write_text("secret\n")
    (tmp_path / "engine.key").chmod(0o600)
    (tmp_path / "probe.toml").write_text('kind = "chat"\napi_key_file = "engine.key"\n')
    spec = read_probe_file(tmp_path / "probe.toml")
    assert isinstance(spec, ChatSpec)
    assert spec.api_key_file == tmp_path / "engine.key"


def test_hyphens_and_underscores_are_the_same_but_in_what_is_not_ours(tmp_path: Path) -> None:
    text = 'kind = "embeddings"\ngive_up = "9s"\n[body]\nuser_id = 1\n[expect]\nnorm = 1\nnorm_tolerance = 0.5\n'
    (tmp_path / "probe.toml").write_text(text)
    spec = read_probe_file(tmp_path / "probe.toml")
    assert isinstance(spec, EmbeddingsSpec)
    assert (spec.give_up, spec.body, spec.expect.norm_tolerance) == (9, {"user_id": 1}, 0.5)


def test_every_kind_has_a_default_or_says_what_it_needs() -> None:
    needs = {}
    for kind in KINDS:
        try:
            spec = default_spec(kind)
        except SettingsError as error:
            needs[kind] = error.message
            continue
        assert spec.kind == kind
        if kind != "grpc":  # an extra
            assert build_probe(spec, WORKER).description
    assert needs == {
        "kserve": "--probe kserve needs model and inputs",
        "http": "--probe http needs path",
        "command": "--probe command needs command",
    }


def test_the_settings_choose_a_probe_the_file_first_then_the_kind_then_the_default(tmp_path: Path) -> None:
    file = tmp_path / "probe.toml"
    file.write_text(TENSOR)
    assert probe_spec("", None) is None
    assert isinstance(probe_spec("", None, "tcp"), TcpSpec)
    assert probe_spec("", None, "kserve") is None, "it needs a file"
    assert probe_spec("none", None, "tcp") is None
    assert isinstance(probe_spec("chat", None, "tcp"), ChatSpec)
    assert isinstance(probe_spec("", file, "tcp"), KserveSpec)
    assert isinstance(probe_spec("kserve", file, "tcp"), KserveSpec)
    with pytest.raises(SettingsError, match="exclude each other"):
        probe_spec("chat", file)
    with pytest.raises(SettingsError, match="not a kind of probe") as error:
        probe_spec("embedding", None)
    assert error.value.hint == "did you mean 'embeddings'?"
    assert "none" in PROBE_NAMES


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("kind",), 1),
        (("api-key-file",), 2),
        (("expect",), 4),
        (("expect", "norm"), 5),
        (("expect", "schema", "properties", "data", "type"), 7),
        (("expect", "schema", "properties", "data", "items"), 6),
        (("body", "a", "b"), 9),
        (("nowhere",), None),
    ],
)
def test_the_line_of_a_key_or_of_the_table_around_it(key: tuple[str, ...], line: int | None) -> None:
    text = (
        'kind = "x"\napi_key_file = "k"\n# comment = 1\n[expect]\nnorm = 1\n[expect.schema.properties."data"]\n'
        'type = "array"\n[body] # of the request\na.b = 1\n'
    )
    assert line_of(text, key) == line


@given(st.text(max_size=200), st.lists(st.text(max_size=5), max_size=3).map(tuple))
def test_the_line_of_a_key_is_a_line(text: str, key: tuple[str, ...]) -> None:
    line = line_of(text, key)
    assert line is None or 1 <= line <= len(text.splitlines())


def blocks() -> list[str]:
    page = (Path(__file__).parents[2] / "docs" / "run" / "probes.md").read_text()
    return re.findall(r"```toml\n(.*?)```", page, re.DOTALL)


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.splitlines()[0])
def test_the_probe_files_of_the_documentation_are_right(tmp_path: Path, block: str) -> None:
    (tmp_path / "engine.key").write_text("secret\n")
    (tmp_path / "engine.key").chmod(0o600)
    try:
        parse_probe(block, tmp_path)
    except BadProbe as error:  # what this machine lacks
        assert any(word in str(error) for word in ("needs grpcio", "'nvidia-smi' is not found")), error  # noqa: PT017
