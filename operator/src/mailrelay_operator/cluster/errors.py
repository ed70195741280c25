"""What the API server answers when it does not do what it was asked.

ClusterError
├── NotFoundError       404: the object, or the kind, is not there
├── ConflictError       409: another version, another object, or the name is taken
├── GoneError           410: a watch or a list has to begin anew
├── ForbiddenError      403: a right is missing, a quota is used up, or a policy says no
│   └── NamespaceEndsError  the namespace is being deleted, so nothing is made in it any more
├── InvalidError        400, 422: what was sent is refused, and will be again
└── UnreachableError    no answer, 429, or 5xx: later it may work
"""

from __future__ import annotations


class ClusterError(Exception):
    """The API server did not do it; the text is its own words, in one line."""


class NotFoundError(ClusterError):
    """There is no such object or kind."""


class ConflictError(ClusterError):
    """The object is another one than was thought."""


class GoneError(ClusterError):
    """What was to be continued is no longer known."""


class ForbiddenError(ClusterError):
    """Not allowed."""


class NamespaceEndsError(ForbiddenError):
    """The namespace is being deleted."""


class InvalidError(ClusterError):
    """Refused for what it is."""


class UnreachableError(ClusterError):
    """No answer, or none yet."""


_BY_STATUS = {
    400: InvalidError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    422: InvalidError,
}


def error_of(status: int, message: str) -> ClusterError:
    """Return the error that an HTTP status means."""
    kind = _BY_STATUS.get(status)
    if kind is None:
        kind = UnreachableError if status in {401, 408, 429} or status >= 500 else ClusterError  # noqa: PLR2004 — HTTP
    return kind(f"{status}: {' '.join(message.split())[:1000]}")
