"""Errors of stores: what a client says of a failed request -> cause, remedy and exit code.

Clients raise OSError for everything: a file that is damaged, a key that is wrong, a network that is down.
"""

from __future__ import annotations

import errno
import re
import socket

from coevo_ray.errors import CoevoError, InputError, StoppedError, UsageError

# pyarrow's clients of S3 and Google, and obstore, in their errors; a damaged file has none of it.
_OF_A_STORE = re.compile(r"AWS Error|curlCode|google::cloud::Status|Generic (?:S3|GCS) error|Error performing ")
_UNREACHABLE = re.compile(
    r"NETWORK_CONNECTION|REQUEST_TIMEOUT|curlCode: (?:6|7|28|35|52|55|56)\b|Status\((?:UNAVAILABLE|DEADLINE_EXCEEDED)"
)
_KEYS = re.compile(
    r"INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|EXPIRED_TOKEN|INVALID_CLIENT_TOKEN_ID|UNRECOGNIZED_CLIENT"
    r"|MISSING_AUTHENTICATION_TOKEN|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken"
    r"|Status\(UNAUTHENTICATED|Could not (?:create|find).{0,40}credentials|invalid_grant"
)
_DENIED = re.compile(r"ACCESS_DENIED|AccessDenied|Status\(PERMISSION_DENIED|HTTP status 403|403 Forbidden")
_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|NoSuchBucket|Bucket '[^']*' not found|bucket does not exist", re.IGNORECASE)
_REGION = re.compile(
    r"HTTP status 301|PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraint|configured region"
)
_ITS_REGION = re.compile(r"bucket is located in '([^']+)'")
# As obstore words it; a token that it cannot get is none of these.
_PASSING = re.compile(r"status code: 5\d\d|(?<!token request: )error sending request")
_CREDENTIALS = (
    "give this machine, and every node of the cluster, credentials of this store: environment variables "
    "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN; GOOGLE_APPLICATION_CREDENTIALS), a profile "
    "(AWS_PROFILE) or the machine's role (docs/stores.md)"
)
# Errors of a disk that is full or fails; the same write may succeed later.
_OF_A_DISK = {errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY}
_AGAIN = "restore the store or the network, then run the same command again: finished parts are kept"

_AGAIN_ON_A_DISK = "free space or repair the disk, then run the same command again: finished parts are kept"


def is_of_a_store(error: BaseException) -> bool:
    """Tests whether a client of a store says that a request failed, and not a reader that a file is damaged."""
    return isinstance(error, OSError) and _OF_A_STORE.search(str(error)) is not None


def is_unreachable(error: BaseException) -> bool:
    """Tests whether no answer came."""
    return _UNREACHABLE.search(str(error)) is not None


def may_pass(error: BaseException) -> bool:
    """Tests whether a store was reached, or should have been, and failed for now."""
    return _PASSING.search(str(error)) is not None


def wrong_settings(place: object, error: BaseException) -> UsageError | None:
    """The error of an address or of credentials with which no request can succeed; None for any other.

    Args:
        place: the address.
        error: of the client.
    """
    words = str(error)
    where = f"{place}, asked from {socket.gethostname()}"
    if _KEYS.search(words):
        return UsageError(f"the store refuses the credentials for {where}: {_short(words)}", _CREDENTIALS)
    if _NO_BUCKET.search(words):
        return no_bucket(where, _short(words))
    if _REGION.search(words):
        found = _ITS_REGION.search(words)
        region = found[1] if found else "REGION"
        return UsageError(
            f"the bucket of {where} is in another region: {_short(words)}",
            f"add ?region={region} to the address, or set AWS_REGION={region}, on every node",
        )
    return None


def no_bucket(place: object, words: str) -> UsageError:
    """The error of a bucket that is not there."""
    return UsageError(
        f"there is no bucket for {place}: {words}",
        "create the bucket, or correct its name or the end point (?endpoint_override=HOST:PORT, AWS_ENDPOINT_URL)",
    )


def reading_failed(place: object, error: BaseException, remedy: str = "") -> CoevoError:
    """The error to raise where something cannot be read.

    Args:
        place: the file or folder.
        error: of the file system, a client, or a reader.
        remedy: for a file that is missing or damaged.

    Returns:
        UsageError where credentials or the address are wrong, StoppedError where the store failed, else InputError.
    """
    if not is_of_a_store(error) or isinstance(error, FileNotFoundError):
        return InputError(f"cannot read {place}: {error}", remedy or "check the path and your permission to read it")
    if (wrong := wrong_settings(place, error)) is not None:
        return wrong
    if _DENIED.search(str(error)):
        return InputError(
            f"the store denies reading {place}, asked from {socket.gethostname()}: {_short(str(error))}",
            f"grant reading and listing (docs/stores.md), or {_CREDENTIALS}",
        )
    return StoppedError(f"cannot reach {place}: {_short(str(error))}", f"check the address and the network; {_AGAIN}")


def writing_failed(place: object, error: BaseException) -> CoevoError:
    """The error to raise where nothing can be written.

    Args:
        place: the file or folder.
        error: of the file system or a client.

    Returns:
        StoppedError where a store or a disk failed or is full, UsageError where it refuses and will go on to refuse.
    """
    if is_of_a_store(error):
        if (wrong := wrong_settings(place, error)) is not None:
            return wrong
        if not _DENIED.search(str(error)):
            return StoppedError(f"cannot write {place}: {_short(str(error))}", _AGAIN)
        return UsageError(
            f"cannot write to {place}, asked from {socket.gethostname()}: {_short(str(error))}",
            f"grant the permission to write (docs/stores.md), choose another output with --out, or {_CREDENTIALS}",
        )
    if getattr(error, "errno", None) in _OF_A_DISK:
        return StoppedError(f"cannot write to {place}: {error}", _AGAIN_ON_A_DISK)
    return UsageError(
        f"cannot write to {place}: {error}", "choose another output with --out, or grant the permission to write"
    )


def unreachable(place: object, error: BaseException) -> StoppedError:
    """The error of a store that gave no answer."""
    return StoppedError(
        f"cannot reach {place} from {socket.gethostname()}: {_short(str(error))}",
        f"check the address, the network and the credentials; {_AGAIN}",
    )


def _short(words: str, most: int = 400) -> str:
    """The client's words on one line, without what it prints for its own authors."""
    plain = " ".join(words.split("Debug source:")[0].split())
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."
