from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mailrelay.config.load import ConfigError, load_config, options
from mailrelay.config.model import RelayConfig
from mailrelay.config.text import ConfigTextError, parse_config_text
from mailrelay.service import service_settings

GOOD: dict[str, Any] = {"security": {"requireAuth": False}}
SECRET = "open sesame 4711"  # noqa: S105 — of the tests

# The guide's configuration blocks as one file, its comments as people would keep them.
GUIDE = """{
  // 基础配置
  "smtpHost": "127.0.0.1", "smtpPort": 25,
  "defaultUsername": "admin", "defaultPassword": "pass//word /* no comment */",
  /* 转发设置
     "forwardSMTP": true, */
  "forwardSMTP": false, "forwardHost": "", "forwardPort": 587,
  "forwardUsername": "", "forwardPassword": "", "forwardSSL": false,
  "workerCount": 5,           // 工作协程数量
  "queueSize": 1000,          // 队列大小
  "processingTimeout": 300,   // 单封邮件处理超时时间 秒
  "batchSize": 20,          // 每批最大收件人数
  "batchDelay": 1000,       // 批次间延迟 毫秒
  "continueOnError": true,  // 部分收件人失败是否继续发送
  "enableHealthCheck": true, "healthCheckPort": 8025,
  "rateLimits": {
    "enabled": true, "maxPerHour": 500, "maxPerDay": 2000,
    "globalMaxPerHour": 1000, "globalMaxPerDay": 5000
  },
  "security": {"allowLocalOnly": true, "logAllEmails": true, "requireAuth": true}
}
"""


def write(folder: Path, found: object) -> Path:
    path = folder / "config.json"
    path.write_text(found if isinstance(found, str) else json.dumps(found), encoding="utf-8")
    return path


def faults(folder: Path, found: object, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_config(write(folder, found), environ)
    return error.value.faults


def test_the_guides_file_works_unchanged(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GUIDE), {})
    assert config.default_password.get_secret_value() == "pass//word /* no comment */"
    assert config.rate_limits.enabled
    assert config.forward_port == 587


def test_the_guides_defaults_hold(tmp_path: Path) -> None:
    # The only thing that has no default that works is who may authenticate.
    config = load_config(write(tmp_path, GOOD), {})
    dumped = config.model_dump(mode="json", by_alias=True)
    written = parse_config_text(GUIDE)
    for key in ("defaultUsername", "defaultPassword", "security", "rateLimits"):
        del written[key]
    assert {key: dumped[key] for key in written} == written
    assert dumped["rateLimits"]["enabled"] is False


def test_every_option_has_a_description_and_a_variable() -> None:
    found = list(options())
    assert len({option.variable for option in found}) == len(found) > 40
    for option in found:
        assert option.field.description, option.key
        assert re.fullmatch(r"[A-Z]+(?:_[A-Z]+)*", option.variable)


@pytest.mark.parametrize(
    ("key", "variable"),
    [
        ("smtpHost", "SMTP_HOST"),
        ("forwardSMTP", "FORWARD_SMTP"),
        ("forwardSSL", "FORWARD_SSL"),
        ("forwardVerifyTLS", "FORWARD_VERIFY_TLS"),
        ("forwardCAFile", "FORWARD_CA_FILE"),
        ("rateLimits.globalMaxPerHour", "RATE_LIMITS_GLOBAL_MAX_PER_HOUR"),
        ("security.logAllEmails", "SECURITY_LOG_ALL_EMAILS"),
        ("tls.certFile", "TLS_CERT_FILE"),
    ],
)
def test_the_variable_is_the_screaming_snake_of_the_path(key: str, variable: str) -> None:
    assert {option.key: option.variable for option in options()}[key] == variable


# --- Faults: each is one line that names the key ------------------------------------------------


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ({"smtpPrt": 25}, r"unknown key smtpPrt; did you mean smtpPort\?"),
        ({"rateLimits": {"maxPerHours": 1}}, r"unknown key rateLimits.maxPerHours; .*maxPerHour\?"),
        ({"forwardSmtp": True}, r"unknown key forwardSmtp; did you mean forwardSMTP\?"),
        ({"zzzzzzz": 1}, r"unknown key zzzzzzz$"),
        ({"smtpPort": "25"}, r'json: smtpPort: must be a whole number from 1 to 65535, is "25"$'),
        ({"smtpPort": 2.5}, r"json: smtpPort: must be a whole number from 1 to 65535, is 2\.5$"),
        ({"smtpPort": True}, r"json: smtpPort: must be a whole number from 1 to 65535, is true$"),
        ({"smtpPort": None}, r"json: smtpPort: must be a whole number from 1 to 65535, is null$"),
        ({"smtpHost": 1}, r"json: smtpHost: must be a string that is not empty, is 1$"),
        ({"smtpHost": 0}, r"json: smtpHost: must be a string that is not empty, is 0$"),
        ({"smtpHost": ["a"]}, r'json: smtpHost: must be a string that is not empty, is \["a"\]$'),
        ({"continueOnError": 1}, r"json: continueOnError: must be true or false, is 1$"),
        ({"continueOnError": "yes"}, r'json: continueOnError: must be true or false, is "yes"$'),
        (
            {"retry": {"multiplier": "2"}},
            r'retry.multiplier: must be a number from 1 to 100, is "2"$',
        ),
        ({"smtpPort": 0}, r"json: smtpPort: must be a whole number from 1 to 65535, is 0$"),
        ({"smtpPort": 65536}, r"json: smtpPort: must be a whole number from 1 to 65535, is 65536$"),
        ({"queueSize": 0}, r"queueSize: must be a whole number from 1 to 10000000, is 0$"),
        ({"batchSize": 0}, r"batchSize: must be a whole number from 1 to 1000, is 0$"),
        ({"workerCount": -1}, r"workerCount: must be a whole number from 1 to 1000, is -1$"),
        ({"smtpHost": ""}, r'smtpHost: must be a string that is not empty, is ""$'),
        (
            {"queue": {"prefix": "Bad.Prefix"}},
            r'queue.prefix: must be a string that matches \^\[a-z\].*, is "Bad.Prefix"$',
        ),
        (
            {"capture": {"whenFull": "explode"}},
            r'capture.whenFull: must be "refuse" or "dropOldest", is "explode"$',
        ),
        ({"queue": {"replicas": 2}}, r"json: queue.replicas: must be 1, 3 or 5, is 2$"),
        ({"queue": {"replicas": 7}}, r"queue.replicas: must be a whole number from 1 to 5, is 7$"),
        ({"security": 5}, r"security: must be an object, is 5$"),
        ({"security": []}, r"security: must be an object, is \[\]$"),
        ({"retry": {"maxAgeSeconds": 0}}, r"must be a number greater than 0 and at most .*, is 0"),
        ({"defaultPassword": 4711}, r"json: defaultPassword: must be a string, is a number$"),
        ({"http": {"listen": []}}, r"http.listen: must be a list of strings, 1 or more, is \[\]$"),
        ({"http": {"listen": "::"}}, r'http.listen: must be a list of strings, .*, is "::"$'),
        (
            {"http": {"allowedNetworks": ["10.0.0.0/8", "10.0.0.1/8"]}},
            r"http.allowedNetworks: '10.0.0.1/8' is no network: .* the network is 10.0.0.0/8$",
        ),
        ({"rateLimits": None}, r"rateLimits: must be an object, is null"),
        ({"forwardSMTP": True}, r"forwardSMTP is true, so forwardHost must name the upstream"),
        ({"defaultUsername": "a"}, r"defaultUsername and defaultPassword must be set together"),
        ({"forwardUsername": "a"}, r"forwardUsername and forwardPassword must be set together"),
        ({"tls": {"certFile": "a"}}, r"tls: certFile and keyFile must be set together"),
        (
            {"retry": {"initialIntervalSeconds": 10, "maxIntervalSeconds": 5}},
            r"retry: initialIntervalSeconds must not be greater than maxIntervalSeconds",
        ),
        ('{"smtpPort": 25,}', r"line 1, column \d+: .*remove the comma before the closing"),
        ('{\n  "a": 1\n  "b": 2\n}', r"line 3, column 3"),
        ('/* c */ // d\n{"a" 1}', r"line 2, column 6"),
        ('{"smtpPort": 25, "smtpPort": 26}', r"the key 'smtpPort' stands twice"),
        ("[]", r"must be a JSON object \{…\}, is list"),
        ("", r"line 1, column 1"),
        ("{ /* open", r"line 1"),
        ('{"queueSize": ' + "9" * 5000 + "}", r"config.json: "),
    ],
)
def test_a_fault_is_one_line_that_names_it(tmp_path: Path, found: object, line: str) -> None:
    merged = {**GOOD, **found} if isinstance(found, dict) else found
    [fault] = faults(tmp_path, merged)
    assert re.search(line, fault), fault
    assert "\n" not in fault


def test_auth_without_a_user_says_what_to_set(tmp_path: Path) -> None:
    [fault] = faults(tmp_path, {})
    assert "security.requireAuth" in fault
    assert "defaultUsername" in fault


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    assert len(faults(tmp_path, {**GOOD, "smtpPort": "x", "queueSize": "y"})) == 2
    assert len(faults(tmp_path, {**GOOD, "smtpPort": 0, "queueSize": 0, "nope": 1})) == 3


def test_faults_of_type_name_range_and_environment_are_told_together(tmp_path: Path) -> None:
    found = {"smtpPrt": 25, "batchSize": 0, "queueSize": "10", "forwardSMTP": True}
    told = [fault.rpartition("json: ")[2] for fault in faults(tmp_path, found, WORKER_COUNT="x")]
    assert told == [
        'queueSize: must be a whole number from 1 to 10000000, is "10"',
        'WORKER_COUNT: workerCount: must be a whole number from 1 to 1000, is "x"',
        "batchSize: must be a whole number from 1 to 1000, is 0",
        "unknown key smtpPrt; did you mean smtpPort?",
    ]


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(tmp_path, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*/none\.json: No such file"):
        load_config(tmp_path / "none.json", {})


def test_a_file_that_is_not_utf_8_is_refused_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b'{"hostName": "caf\xe9"}')
    with pytest.raises(ConfigError, match=r"is not UTF-8 text \(octet 17\)"):
        load_config(path, {})


# --- Environment --------------------------------------------------------------------------------


def test_the_environment_overrides_the_file_and_the_file_the_default(tmp_path: Path) -> None:
    path = write(tmp_path, {**GOOD, "smtpPort": 2500, "rateLimits": {"maxPerHour": 7}})
    config = load_config(path, {"SMTP_PORT": "2600", "RATE_LIMITS_MAX_PER_DAY": "9"})
    assert config.smtp_port == 2600
    assert config.rate_limits.max_per_hour == 7
    assert config.rate_limits.max_per_day == 9
    assert config.health_check_port == 8025


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("false", False), ("1", True), ("0", False)]
)
def test_a_truth_value_in_the_environment(tmp_path: Path, text: str, value: bool) -> None:
    config = load_config(write(tmp_path, GOOD), {"CONTINUE_ON_ERROR": text})
    assert config.continue_on_error is value


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SMTP_PORT", "many"),
        ("SMTP_PORT", ""),
        ("SMTP_PORT", "70000"),
        ("FORWARD_SMTP", "perhaps"),
        ("RETRY_MULTIPLIER", "two"),
        ("CAPTURE_WHEN_FULL", "explode"),
        ("QUEUE_REPLICAS", "4"),
    ],
)
def test_a_bad_value_in_the_environment_is_blamed_on_its_variable(
    tmp_path: Path, variable: str, value: str
) -> None:
    [fault] = faults(tmp_path, GOOD, **{variable: value})
    assert fault.startswith(f"{variable}: ")


def test_a_section_of_the_wrong_type_is_a_fault_even_when_the_environment_goes_into_it(
    tmp_path: Path,
) -> None:
    [fault] = faults(tmp_path, {"security": 5}, SECURITY_REQUIRE_AUTH="false")
    assert "security" in fault


def test_without_a_file_the_development_defaults_hold_and_the_environment_goes_on_top() -> None:
    config = load_config(None, {"SMTP_PORT": "2626"})
    assert (config.smtp_host, config.smtp_port) == ("localhost", 2626)
    assert not config.security.require_auth
    assert config.security.allow_local_only
    assert not config.forward_smtp
    assert load_config(None, {}).smtp_port == 2525


# --- Secrets ------------------------------------------------------------------------------------


def test_a_secret_never_shows_in_a_configurations_text(tmp_path: Path) -> None:
    found = {"defaultUsername": "a", "defaultPassword": SECRET}
    config = load_config(
        write(tmp_path, found), {"FORWARD_PASSWORD": SECRET, "FORWARD_USERNAME": "u"}
    )
    assert config.default_password.get_secret_value() == SECRET
    for text in (repr(config), str(config), str(config.model_dump()), config.model_dump_json()):
        assert SECRET not in text


@pytest.mark.parametrize(
    "found",
    [
        {"defaultPassword": SECRET},
        {"defaultPassword": [SECRET]},
        {"defaultPassword": {SECRET: SECRET}},
        {"forwardPassword": SECRET, "smtpPort": 0},
        {"forwardSMTP": True, "forwardUsername": "a", "forwardPassword": SECRET},
        f'{{"forwardPassword": "{SECRET}"',
        f'{{"forwardPassword": "{SECRET}",}}',
    ],
)
def test_a_secret_never_shows_in_a_fault(tmp_path: Path, found: object) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(write(tmp_path, found), {"DEFAULT_PASSWORD": SECRET})
    assert SECRET not in str(error.value)
    cause = error.value.__cause__
    if not isinstance(cause, ConfigTextError):
        assert SECRET not in repr(cause)


def test_the_secrets_are_marked_as_such() -> None:
    secrets = {option.key for option in options() if option.is_secret}
    assert secrets == {"defaultPassword", "forwardPassword"}


# --- What a process is told besides -------------------------------------------------------------


def test_a_service_needs_to_know_where_nats_is() -> None:
    with pytest.raises(ConfigError, match="MAILRELAY_NATS_URL"):
        service_settings("ingress", {})


def test_a_services_settings_come_from_its_environment(tmp_path: Path) -> None:
    environ = {
        "MAILRELAY_CONFIG": str(write(tmp_path, {**GOOD, "smtpHost": "0.0.0.0"})),  # noqa: S104
        "MAILRELAY_NATS_URL": "nats://x:1",
        "MAILRELAY_NATS_SEED_FILE": "/seed",
        "MAILRELAY_LISTEN_FDS": "3,4",
        "SMTP_PORT": "2600",
        "QUEUE_PREFIX": "other",
    }
    settings = service_settings("sender", environ)
    assert settings.listen_fds == (3, 4)
    assert settings.smtp_address == ("127.0.0.1", 2600)
    assert (settings.queue.prefix, settings.queue.role) == ("other", "sender")
    assert settings.queue.seed_file == Path("/seed")


def test_a_configuration_cannot_be_changed() -> None:
    config = RelayConfig.model_validate(GOOD)
    with pytest.raises(ValueError, match="frozen"):
        config.smtp_port = 1  # type: ignore[misc]
