"""File systems of stores: where a URI leads, how long a request may take, and how often it is tried again."""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from urllib.parse import parse_qs, urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.fs as pafs

from coevo_ray.errors import UsageError
from coevo_ray.store.failures import is_unreachable, no_bucket, unreachable, wrong_settings

_S3, _GOOGLE = ("s3", "s3a"), ("gs", "gcs")
_AGAIN = 10  # tries after the first one, with waits of 0, 0.05, 0.1, ... 12.8 s: 25.5 s together
_CONNECT_S, _ANSWER_S = 5.0, 20.0
_GOOGLE_AGAIN_S = 30
# The first contact of a process with a store.
_FIRST_S, _FIRST_TRY_S = 6.0, 2.0
_ON = {"true", "1"}


@dataclass(frozen=True)
class S3Address:
    """The destination of requests to an S3 bucket.

    Attributes:
        bucket: its name.
        region: None where nothing says it.
        end_point: host and port; empty for Amazon's.
        scheme: http or https.
        anonymous: without credentials, for public buckets.
        allow_bucket_creation: a missing bucket is made.
    """

    bucket: str
    region: str | None
    end_point: str
    scheme: str
    anonymous: bool
    allow_bucket_creation: bool

    @classmethod
    def of(cls, uri: str) -> S3Address:
        """Reads a URI, and what it leaves out from the environment as Amazon's own clients do."""
        parts = urlsplit(uri)
        login, _, bucket = parts.netloc.rpartition("@")
        given = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        end_point = given.get("endpoint_override", "")
        scheme = given.get("scheme", "https")
        if not end_point:
            named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
            before, separator, rest = named.rstrip("/").rpartition("://")
            end_point, scheme = rest, given.get("scheme") or (before if separator else "https")
        region = given.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if "region" not in given and not end_point:
            region = None  # Amazon tells where a bucket is, which need not be where this machine is
        creation = given.get("allow_bucket_creation", "").lower() in _ON
        return cls(bucket, region, end_point, scheme, login == "anonymous", creation)


@lru_cache(maxsize=64)
def file_system(root: str) -> pafs.FileSystem:
    """The file system of a URI's scheme, host and query; one per process.

    Raises:
        UsageError: it is no URI of a store, or its settings are wrong.
    """
    try:
        scheme = urlsplit(root).scheme
        if scheme in _S3:
            return _s3(root)
        found, _ = pafs.FileSystem.from_uri(_with_limit(root, _GOOGLE_AGAIN_S) if scheme in _GOOGLE else root)
    except (pa.ArrowException, OSError, ValueError) as error:
        wrong = wrong_settings(root, error)
        if wrong is None and is_unreachable(error):
            raise unreachable(root, error) from error
        raise wrong or UsageError(
            f"cannot open the store {root!r}: {error}",
            "use a local path, s3://bucket/folder or gs://bucket/folder, and check the credentials",
        ) from error
    return found


@lru_cache(maxsize=64)
def reached(root: str) -> pafs.FileSystem:
    """As `file_system`, after a first request that finds within 10 s what no later one would get over.

    Raises:
        UsageError: the store refuses the credentials, has no such bucket, or has it in another region.
        StoppedError: there is no answer.
    """
    found = file_system(root)
    parts = urlsplit(root)
    if parts.scheme not in (*_S3, *_GOOGLE) or S3Address.of(root).allow_bucket_creation:
        return found
    quick = (
        _s3(root, quick=True) if parts.scheme in _S3 else pafs.FileSystem.from_uri(_with_limit(root, _FIRST_TRY_S))[0]
    )
    bucket = parts.netloc.rpartition("@")[2]
    deadline, wait = time.monotonic() + _FIRST_S, 0.1
    while True:
        try:
            _ask(quick, bucket, root)
        except OSError as error:
            if (wrong := wrong_settings(root, error)) is not None:
                raise wrong from error
            if is_unreachable(error):
                if time.monotonic() + wait > deadline:
                    raise unreachable(root, error) from error
                time.sleep(wait)
                wait *= 2
                continue
            # Whether it matters that this is denied, or that the store is busy, the work itself will tell.
        return found


def _ask(client: pafs.FileSystem, bucket: str, root: str) -> None:
    """Asks for nothing, in ways that fail where other requests would.

    Raises:
        OSError: as the client words it.
        UsageError: there is no such bucket.
    """
    # Of all requests a listing is told most of why it is refused.
    client.get_file_info(pafs.FileSelector(f"{bucket}/.contact-{uuid.uuid4().hex}", allow_not_found=True))
    if client.get_file_info(bucket).type == pafs.FileType.NotFound:
        raise no_bucket(root, bucket)


def _s3(root: str, quick: bool = False) -> pafs.FileSystem:
    address = S3Address.of(root)
    region = address.region
    if region is None:
        region = "us-east-1" if address.end_point else pafs.resolve_s3_region(address.bucket)
    return pafs.S3FileSystem(
        region=region,
        endpoint_override=address.end_point or None,
        scheme=address.scheme,
        anonymous=address.anonymous,
        allow_bucket_creation=address.allow_bucket_creation,
        # One request for a small object, where three would make a multipart upload of it.
        allow_delayed_open=True,
        connect_timeout=_FIRST_TRY_S if quick else _CONNECT_S,
        request_timeout=_FIRST_TRY_S if quick else _ANSWER_S,
        # Arrow's own default tries again every 0.2 s for 6 s, which does not relieve a store that asks to slow down.
        retry_strategy=pafs.AwsDefaultS3RetryStrategy(max_attempts=0 if quick else _AGAIN),
    )


def _with_limit(root: str, seconds: float) -> str:
    """A Google URI with a limit on the time of all tries of a request, unless it has one."""
    parts = urlsplit(root)
    if "retry_limit_seconds" in parse_qs(parts.query):
        return root
    limit = timedelta(seconds=seconds).total_seconds()
    query = "&".join(filter(None, (parts.query, f"retry_limit_seconds={limit:g}")))
    return urlunsplit(parts._replace(query=query))
