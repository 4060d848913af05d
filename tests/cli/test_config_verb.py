"""``rumormill config``: an agent reads the file that it writes; what is wrong is told; every origin is named."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from rumormill.cli.config import config, template
from rumormill.sidecar import load
from rumormill.sidecar.settings import fields

BY_DEFAULT = [field for field in fields() if not field.required and field.default not in (None, msgspec.NODEFAULT)]


def run(*arguments: str, **variables: str) -> Result:
    return CliRunner().invoke(config, arguments, env=variables)


def test_every_setting_stands_in_the_template_once_with_its_meaning() -> None:
    lines = template().splitlines()
    for field in fields():
        places = [
            number for number, line in enumerate(lines) if line.removeprefix("# ").startswith(f"{field.encode_name} = ")
        ]
        assert len(places) == 1, field.encode_name
        assert lines[places[0] - 1].startswith("# ")


def test_the_template_is_a_file_that_an_agent_reads_once_it_has_a_key(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    assert run("init", "--out", str(file)).exit_code == 0
    assert load({"insecure-plaintext": True}, {}, file).name == "w1"
    done = run("check", str(file))
    assert done.exit_code == 2
    assert "there is no key" in done.output
    assert run("check", str(file), RUMORMILL_INSECURE_PLAINTEXT="true").output.startswith(
        f"{file} is valid: w1 in prod"
    )
    again = run("init", "--out", str(file))
    assert (again.exit_code, "exists already" in again.output) == (2, True)


@pytest.mark.parametrize("field", BY_DEFAULT, ids=lambda field: str(field.encode_name))
def test_a_default_in_the_template_is_the_default(field: msgspec.structs.FieldInfo, tmp_path: Path) -> None:
    [line] = [line for line in template().splitlines() if line.startswith(f"# {field.encode_name} = ")]
    file = tmp_path / "agent.toml"
    file.write_text(line.removeprefix("# "))
    assert tomllib.loads(file.read_text()).keys() == {field.encode_name}
    flags = {"name": "w1", "cluster": "c", "service": "s", "worker": "http://127.0.0.1:9001"}
    plain = {} if field.name == "insecure_plaintext" else {"insecure-plaintext": True}
    if plain:
        assert getattr(load(flags | plain, {}, file), field.name) == field.default
    else:
        assert line.endswith("= false")


def test_what_is_wrong_with_a_file_is_told_with_the_line_to_fix(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(template() + "wieght = 2\n")
    done = run("check", str(file))
    assert done.exit_code == 2
    assert "did you mean 'weight'?" in done.output
    file.write_text(template() + f'http-token-file = "{tmp_path}/none"\ninsecure-plaintext = true\n')
    assert "none" in run("check", str(file)).output


def test_each_setting_is_shown_with_where_it_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('name = "from-file"\ncluster = "c"\nservice = "s"\nzone = "a"\n')
    flags = ("--config", str(file), "--worker", "http://127.0.0.1:9001", "--insecure-plaintext", "--tag", "gpu=h100")
    done = run("show", "--origin", *flags, RUMORMILL_ZONE="b")
    assert done.exit_code == 0, done.output
    rows = {line.split()[0]: line.split()[1:] for line in done.output.splitlines()}
    assert rows["name"] == ["from-file", "name", "in", str(file)]
    assert rows["zone"] == ["b", "RUMORMILL_ZONE"]
    assert rows["tag"] == ["gpu=h100", "--tag"]
    assert rows["period"] == ["200ms", "default"]
    assert len(rows) == len(fields()) + 1
    short = run("show", *flags).output
    assert "period" not in short
    assert "ORIGIN" not in short
    told = msgspec.json.decode(run("show", "-o", "json", *flags).output)
    assert {"setting": "tag", "value": {"gpu": "h100"}, "origin": "--tag"} in told


def test_all_settings_that_are_missing_are_named_at_once() -> None:
    done = run("show")
    assert done.exit_code == 2
    for key in [field.encode_name for field in fields() if field.required] + ["key-file"]:
        assert f"--{key}" in done.output
