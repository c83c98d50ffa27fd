"""A cell in an object store with conditional writes (S3: If-None-Match and If-Match; GCS: generations), by obstore.

obstore is optional (`pip install 'coevo-ray[leases]'`): pyarrow, which does everything else, has no conditional write.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from coevo_ray.store.file_systems import S3Address
from coevo_ray.store.lease_cells import RELEASED, Seen
from coevo_ray.store.location import Location

_TIMEOUT_S = 10.0
_WAITS_S = (0.2, 0.5, 1.0)
_RETRIES: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}


class ObjectCell:
    """An object that is written on a condition which the store itself checks.

    It is not removed, for stores remove without a condition, but marked as released.

    Args:
        location: the object, of s3:// or gs://.
        timeout_s: seconds for a request.

    Raises:
        ImportError: obstore is not installed.
        OSError: the store cannot be opened with the settings of the location and the environment.
    """

    def __init__(self, location: Location, timeout_s: float = _TIMEOUT_S) -> None:
        import obstore
        from obstore import exceptions

        self._client, self._errors = obstore, exceptions
        self._key = urlsplit(location.uri).path.lstrip("/")
        try:
            self._store = _open(location, f"{timeout_s:g}s")
        except (exceptions.BaseError, ValueError) as error:
            raise OSError(str(error)) from error

    def read(self) -> Seen | None:
        """See `Cell`."""
        try:
            found = self._client.get(self._store, self._key)
            return Seen(bytes(found.bytes()), _tag(found.meta))
        except FileNotFoundError:
            return None
        except self._errors.BaseError as error:
            if isinstance(error, self._errors.NotFoundError):
                return None
            raise OSError(str(error)) from error

    def create(self, content: bytes) -> Seen | None:
        """See `Cell`."""
        return self._put(content, "create")

    def replace(self, content: bytes, seen: Seen) -> Seen | None:
        """See `Cell`."""
        tag, _, version = seen.tag.partition("\n")
        return self._put(content, {name: value for name, value in (("e_tag", tag), ("version", version)) if value})

    def remove(self, seen: Seen) -> bool:
        """See `Cell`."""
        return self.replace(RELEASED, seen) is not None

    def kept(self, seen: Seen) -> AbstractContextManager[bool]:
        """See `Cell`."""
        return nullcontext(True)

    def _put(self, content: bytes, mode: Any) -> Seen | None:
        """Writes on a condition, again where no answer came: obstore itself would not know whether it was written."""
        for wait_s in _WAITS_S:
            try:
                return self._put_once(content, mode)
            except OSError:
                time.sleep(wait_s)
            there = self.read()
            if there is not None and there.content == content:  # which is of nobody else: the answer was lost
                return there
        return self._put_once(content, mode)

    def _put_once(self, content: bytes, mode: Any) -> Seen | None:
        errors = self._errors
        try:
            made = self._client.put(self._store, self._key, content, mode=mode, use_multipart=False)
        except (errors.AlreadyExistsError, errors.PreconditionError):
            return None
        except (errors.NotFoundError, FileNotFoundError) as error:
            if mode == "create":  # then it is the bucket that is not there
                raise OSError(str(error)) from error
            return None
        except errors.BaseError as error:
            raise OSError(str(error)) from error
        return Seen(content, _tag(made))


def _tag(meta: Any) -> str:
    """ETag and version, either of which a store may lack."""
    return f"{meta.get('e_tag') or ''}\n{meta.get('version') or ''}"


def _open(location: Location, timeout: str) -> Any:
    """The bucket, with what the URI and the environment say as pyarrow understands it."""
    from obstore.store import GCSStore, S3Store

    uri = urlsplit(location.uri)
    given = {name: values[-1] for name, values in parse_qs(uri.query).items()}
    config: Any = {}
    if uri.scheme in ("gs", "gcs"):
        login, _, bucket = uri.netloc.rpartition("@")
        if "endpoint_override" in given:
            config["base_url"] = f"{given.get('scheme', 'https')}://{given['endpoint_override']}"
        options: Any = {"timeout": timeout, "allow_http": given.get("scheme") == "http"}
        # Only emulators take writes without credentials; obstore asks for a token all the same.
        token: Any = {"token": "anonymous", "expires_at": None}
        by: Any = {"credential_provider": lambda: token} if login == "anonymous" else {}
        return GCSStore(bucket, config=config, client_options=options, retry_config=_RETRIES, **by)
    address = S3Address.of(location.uri)
    config["region"] = location.file_system.region
    if address.end_point:
        config["endpoint"] = f"{address.scheme}://{address.end_point}"
    options = {"timeout": timeout, "allow_http": address.scheme == "http"}
    return S3Store(address.bucket, config=config, client_options=options, retry_config=_RETRIES)
