"""Refuses addresses with a secret in them: an address is written to manifests and logs, and shown in messages."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote

from coevo_ray.errors import UsageError

_REMEDY = (
    "leave it out of the address: stores take keys from environment variables (AWS_ACCESS_KEY_ID, "
    "GOOGLE_APPLICATION_CREDENTIALS), a profile (AWS_PROFILE) or the machine's role; replace a key that was used so"
)
_SECRET_NAMES = re.compile(r"accesskey|secret|password|passwd|token|credential|signature|apikey|accountkey")
_SHORT_NAMES = {"sig", "sas", "key", "auth", "authorization", "user", "username"}
# Of these a name before the host is no secret: a container, the account of a cluster, public access.
_NAMES_BEFORE_HOST = {"abfs", "abfss", "hdfs", "viewfs"}
_BUCKETS = {"s3", "s3a", "s3n", "gs", "gcs"}  # these have no port
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,11})$")


def refuse_secrets(text: str, what: str = "an address") -> None:
    """Refuses an address that has a secret in it.

    Args:
        text: a path or URI, or any other text.
        what: what it is called in the error, which never shows the address.

    Raises:
        UsageError: it has a password, a key or a token.
    """
    cause = why_secret(text)
    if cause is not None:
        raise UsageError(f"{what} {cause}", _REMEDY)


def why_secret(text: str) -> str | None:
    """Says, without it, which secret an address has; None where there is none."""
    before, separator, rest = text.partition("://")
    if not separator:
        return None
    found = _SCHEME.search(before)
    scheme = found[1].lower() if found else ""
    of = f"of {scheme}://" if scheme.isalnum() else "of a store"
    place, *queries = re.split(r"[?#]", rest)
    if _has_login(scheme, place):
        return f"{of} has a user or password before the host"
    named = [name for query in queries for name, value in parse_qsl(query, True) if _is_secret(name, value)]
    return f"{of} has a key, password or token among its options" if named else None


def _has_login(scheme: str, place: str) -> bool:
    authority, _, path = place.partition("/")
    authority = unquote(authority)
    login, at, host = authority.rpartition("@")
    if at:
        public = login == "anonymous" and scheme in _BUCKETS
        return not public and (":" in login or scheme not in _NAMES_BEFORE_HOST)
    if host.startswith("["):  # an IPv6 address
        return False
    _, colon, port = host.partition(":")
    # A secret with a stroke in it ends the host early.
    return bool(colon) and (scheme in _BUCKETS or not port.isdecimal() or "@" in path.partition("/")[0])


def _is_secret(name: str, value: str) -> bool:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    is_placeholder = value.startswith("{") and value.endswith("}")
    return not is_placeholder and (plain in _SHORT_NAMES or _SECRET_NAMES.search(plain) is not None)
