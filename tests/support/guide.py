"""What the guide of the relay's predecessor says, word for word: its JSON, its table, its answers.

Data of the tests, so that a slip in the model cannot move the promise along with it.
"""

# ruff: noqa: RUF001 — the guide is Chinese, its punctuation too

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

CONFIG_BLOCKS = (
    """{
  "workerCount": 5,           // 工作协程数量
  "queueSize": 1000,          // 队列大小
  "processingTimeout": 300    // 单封邮件处理超时时间（秒）
}
""",
    """{
  "batchSize": 20,          // 每批最大收件人数
  "batchDelay": 1000,       // 批次间延迟（毫秒）
  "continueOnError": true   // 部分收件人失败是否继续发送
}
""",
    """{
  "rateLimits": {
    "enabled": true,
    "maxPerHour": 500,
    "maxPerDay": 2000,
    "globalMaxPerHour": 1000,
    "globalMaxPerDay": 5000
  }
}
""",
)
ENVIRONMENT_BLOCK = """\
SMTP_HOST=0.0.0.0
SMTP_PORT=25
DEFAULT_USERNAME=admin
DEFAULT_PASSWORD=password
FORWARD_SMTP=true
FORWARD_HOST=smtp.example.com
"""
HEALTH_ANSWER = """{
  "status": "ok",
  "timestamp": "2023-04-01T12:34:56Z",
  "details": {
    "disk_space_available_mb": 8192,
    "queued_emails": 5,
    "failed_emails": 2,
    "total_emails_processed": 1250,
    "success_rate": 99.8
  }
}
"""
METRICS_ANSWER = """{
  "total_emails": 1250,
  "successful_emails": 1247,
  "failed_emails": 3,
  "total_recipients": 5280,
  "avg_processing_time_ms": 235
}
"""
_TABLE = """\
| **基础配置** |
| | smtpHost | string | "127.0.0.1" | SMTP服务器监听地址 |
| | smtpPort | int | 25 | SMTP服务器监听端口 |
| | defaultUsername | string | "" | SMTP认证用户名 |
| | defaultPassword | string | "" | SMTP认证密码 |
| **转发设置** |
| | forwardSMTP | bool | false | 是否启用转发 |
| | forwardHost | string | "" | 转发SMTP服务器地址 |
| | forwardPort | int | 587 | 转发SMTP服务器端口 |
| | forwardUsername | string | "" | 转发SMTP认证用户名 |
| | forwardPassword | string | "" | 转发SMTP认证密码 |
| | forwardSSL | bool | false | 是否使用SSL连接转发服务器 |
| **批量发送** |
| | batchSize | int | 20 | 每批最大收件人数量 |
| | batchDelay | int | 1000 | 批次间延迟（毫秒） |
| | continueOnError | bool | true | 部分失败时是否继续发送 |
| **监控设置** |
| | enableHealthCheck | bool | true | 是否启用健康检查API |
| | healthCheckPort | int | 8025 | 健康检查HTTP服务端口 |
| **速率限制** |
| | rateLimits.enabled | bool | false | 是否启用速率限制 |
| | rateLimits.maxPerHour | int | 500 | 每小时每发件人最大邮件数 |
| | rateLimits.maxPerDay | int | 2000 | 每天每发件人最大邮件数 |
| | rateLimits.globalMaxPerHour | int | 1000 | 每小时系统总邮件数限制 |
| | rateLimits.globalMaxPerDay | int | 5000 | 每天系统总邮件数限制 |
| **安全设置** |
| | security.allowLocalOnly | bool | true | 是否只允许本地连接 |
| | security.logAllEmails | bool | true | 是否记录所有邮件内容 |
| | security.requireAuth | bool | true | 是否要求认证 |
"""
# The table lacks these three; the first block has them.
_MORE = (
    ("workerCount", "int", "5"),
    ("queueSize", "int", "1000"),
    ("processingTimeout", "int", "300"),
)


@dataclass(frozen=True, slots=True)
class GuideOption:
    """A line of the guide's table."""

    key: str
    kind: str  # string, int, bool
    default: Any

    @property
    def variable(self) -> str:
        """SCREAMING_SNAKE of the path, as the guide's examples show it: FORWARD_SMTP."""
        words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", self.key)
        return "_".join(words).upper()

    @property
    def other(self) -> Any:  # noqa: ANN401 — of the option's kind
        """A good value that is not the default."""
        if self.kind == "bool":
            return not self.default
        return self.default + 1 if self.kind == "int" else "other.example"


def guide_options() -> list[GuideOption]:
    """Every option that the guide names."""
    found = []
    rows = [tuple(cell.strip() for cell in line.split("|")[2:5]) for line in _TABLE.splitlines()]
    for key, kind, default in [*(row for row in rows if len(row) == 3), *_MORE]:
        value: Any = {"true": True, "false": False}.get(default)
        if kind == "int":
            value = int(default)
        elif kind == "string":
            value = default.strip('"')
        found.append(GuideOption(key, kind, value))
    return found
