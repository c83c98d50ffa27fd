"""What clients say of failed requests, and what becomes of it."""

from __future__ import annotations

import errno
import os

import pytest

from coevo_ray.errors import CoevoError, InputError, StoppedError, UsageError
from coevo_ray.store.failures import is_of_a_store, reading_failed, writing_failed

HEAD = "When getting information for key 'a/403/b' in bucket 'bucket': AWS Error"
# As pyarrow 25 and obstore 0.12 word them.
CASES = [
    (f"{HEAD} ACCESS_DENIED during HeadObject operation: No response body.", InputError, UsageError),
    (f"{HEAD} INVALID_ACCESS_KEY_ID during ListObjectsV2 operation: it does not exist", UsageError, UsageError),
    (f"{HEAD} UNKNOWN (HTTP status 400) during ListObjectsV2 operation: ExpiredToken", UsageError, UsageError),
    (f"{HEAD} NO_SUCH_BUCKET during PutObject operation: The specified bucket does not exist", UsageError, UsageError),
    (f"{HEAD} UNKNOWN (HTTP status 301) during HeadObject operation: No response body.", UsageError, UsageError),
    (f"{HEAD} UNKNOWN (HTTP status 503) during HeadObject operation: No response body.", StoppedError, StoppedError),
    (
        f"{HEAD} NETWORK_CONNECTION during HeadObject operation: curlCode: 7, Could not connect",
        StoppedError,
        StoppedError,
    ),
    ("google::cloud::Status(PERMISSION_DENIED: Permanent error)", InputError, UsageError),
    ("google::cloud::Status(UNAVAILABLE: Retry policy exhausted)", StoppedError, StoppedError),
    (
        "Generic S3 error: Error performing PUT http://x/_lease.json: HTTP error: error sending",
        StoppedError,
        StoppedError,
    ),
    ("Generic S3 error: Server returned non-2xx status code: 403 Forbidden: AccessDenied", InputError, UsageError),
    ("Couldn't deserialize thrift: TProtocolException: Invalid data", InputError, UsageError),
    ("[Errno 28] No space left on device", InputError, UsageError),
]


@pytest.mark.parametrize(("words", "read", "written"), CASES)
def test_errors_are_told_apart(words: str, read: type[CoevoError], written: type[CoevoError]) -> None:
    for found, wanted in (
        (reading_failed("s3://b/a", OSError(words)), read),
        (writing_failed("x", OSError(words)), written),
    ):
        assert type(found) is wanted and found.remedy
        assert "\n" not in found.cause


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EIO, StoppedError), (errno.ENOSPC, StoppedError), (errno.EACCES, UsageError)]
)
def test_a_disk_that_fails_is_told_from_one_that_refuses(number: int, kind: type[CoevoError]) -> None:
    assert type(writing_failed("x", OSError(number, os.strerror(number)))) is kind


def test_a_file_that_is_not_there_is_no_failure_of_its_store() -> None:
    error = FileNotFoundError(2, "google::cloud::Status(NOT_FOUND: Permanent error)")
    assert type(reading_failed("gs://b/a", error)) is InputError
    assert not is_of_a_store(ValueError("AWS Error"))


def test_the_region_of_a_bucket_is_handed_on() -> None:
    words = f"{HEAD} UNKNOWN (HTTP status 301): Looks like the region is 'a' while the bucket is located in 'eu-x'."
    found = reading_failed("s3://b/a", OSError(words))
    assert "?region=eu-x" in found.remedy and "AWS_REGION=eu-x" in found.remedy


def test_what_a_client_prints_for_its_authors_is_left_out() -> None:
    found = reading_failed("s3://b", OSError("Generic S3 error: gone\n\nDebug source:\nGeneric {" + "x" * 2000))
    assert "Debug" not in found.cause and len(found.cause) < 600
