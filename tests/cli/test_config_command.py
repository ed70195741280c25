"""`mailrelay config`: what people and programs are told of each option."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mailrelay.config.load import options
from tests.cli.relay_process import run_command
from tests.support.certificates import make_certificates

SECRET = "open sesame 4711"  # noqa: S105 — of the tests


def write(folder: Path, **found: Any) -> Path:  # noqa: ANN401 — JSON
    path = folder / "config.json"
    path.write_text(json.dumps({"security": {"requireAuth": False}} | found))
    return path


def test_check_shows_each_value_and_where_it_came_from(tmp_path: Path) -> None:
    path = write(
        tmp_path, batchSize=7, queueSize=8, forwardUsername="me", forwardPassword=SECRET,
        http={"allowedNetworks": ["10.0.0.0/8", "2001:db8::/32"]},
    )  # fmt: skip
    done = run_command(
        "config", "check", str(path), "--set", "workerCount=9",
        env={**os.environ, "QUEUE_SIZE": "80", "WORKER_COUNT": "90", "SMTP_HOST": "::1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert last == "ok"
    shown = {line.split()[0]: line.split(None, 1)[1] for line in lines}
    assert shown.keys() == {option.key for option in options()}
    told = {key: tuple(part.strip() for part in shown[key].rsplit("  ", 1)) for key in shown}
    assert told["batchSize"] == ("7", str(path))
    assert told["queueSize"] == ("80", "QUEUE_SIZE")
    assert told["workerCount"] == ("9", "command line")
    assert told["smtpHost"] == ('"::1"', "SMTP_HOST")
    assert told["smtpPort"] == ("25", "default")
    assert told["forwardPassword"] == ('"********"', str(path))
    assert told["defaultPassword"] == ('""', "default")
    assert told["http.allowedNetworks"] == ('["10.0.0.0/8", "2001:db8::/32"]', str(path))
    assert SECRET not in done.stdout + done.stderr


def test_check_tells_programs_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, batchSize=7, forwardUsername="me", forwardPassword=SECRET)
    done = run_command("config", "check", str(path), "--json")
    assert done.returncode == 0
    told = {each["key"]: each for each in json.loads(done.stdout)}
    assert told["batchSize"] == {
        "key": "batchSize",
        "value": 7,
        "source": str(path),
        "is_default": False,
        "default": 20,
        "allowed": "a whole number from 1 to 1000",
        "variable": "BATCH_SIZE",
        "secret": False,
        "reloadable": True,
    }
    assert told["forwardPassword"]["value"] == "********"
    assert SECRET not in done.stdout


def test_the_schema_has_each_option_with_its_meaning_and_range() -> None:
    done = run_command("config", "schema")
    assert done.returncode == 0
    schema = json.loads(done.stdout)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["additionalProperties"] is False
    for option in options():
        node = schema
        for key in option.path:
            while "$ref" in node:
                node = schema["$defs"][node["$ref"].rpartition("/")[2]]
            node = node["properties"][key]
        assert node["description"] == option.field.description
        assert node.get("reloadable", False) is option.is_reloadable
    port = schema["properties"]["smtpPort"]
    assert (port["minimum"], port["maximum"], port["default"]) == (1, 65535, 25)
    assert schema["properties"]["forwardPassword"]["writeOnly"] is True
    when_full = schema["$defs"]["Capture"]["properties"]["whenFull"]
    assert when_full["enum"] == ["refuse", "dropOldest"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--set", "smtpPrt=1"], "command line: unknown key smtpPrt; did you mean smtpPort?"),
        (["--set", "smtpPort"], "command line: --set smtpPort: must be key=value"),
        (
            ["--set", "smtpPort=0"],
            'command line: smtpPort: must be a whole number from 1 to 65535, is "0"',
        ),
        (
            ["--set", f"forwardPassword={SECRET}"],
            "command line: forwardPassword: a secret does not belong on a command line",
        ),
        (
            ["--set", "forwardSMTP=true"],
            "upstream (forwardSMTP: command line, forwardHost: default)",
        ),
    ],
)
def test_a_wrong_override_is_one_line_and_exit_code_2(
    arguments: list[str], line: str, tmp_path: Path
) -> None:
    path = write(tmp_path)
    done = run_command("config", "check", str(path), *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
    assert SECRET not in done.stderr


def test_a_file_that_an_option_names_and_that_cannot_be_used_is_bad_input(tmp_path: Path) -> None:
    good = make_certificates(tmp_path / "certificates")
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    path = write(
        tmp_path,
        tls={"certFile": str(good.server.certificate), "keyFile": str(good.expired.key)},
        forwardCAFile=str(broken),
        http={"tokenFile": "none.txt"},
    )
    done = run_command("config", "check", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    listener, authorities, token = done.stderr.splitlines()
    assert listener.startswith(f"{path}: tls.")
    assert str(good.expired.key) in listener or str(good.server.certificate) in listener
    assert authorities.startswith(f"{path}: forwardCAFile: must be a PEM file of certificates ")
    assert f'is "{broken}"' in authorities
    assert token == (f"{path}: http.tokenFile: none.txt: cannot be read: No such file or directory")
    done = run_command("run", "--config", str(path), "--data-dir", str(tmp_path / "data"))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 3)
    assert not (tmp_path / "data" / "nats").exists()
