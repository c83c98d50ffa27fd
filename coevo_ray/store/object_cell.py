"""A cell in an object store with conditional writes (S3: If-None-Match and If-Match; GCS: generations), by obstore.

obstore is optional (`pip install 'coevo-ray[leases]'`): pyarrow, which does everything else, has no conditional write.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from coevo_ray.store.lease_cells import RELEASED, Seen
from coevo_ray.store.location import Location

_TIMEOUT = "10s"
_RETRIES: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}


class ObjectCell:
    """An object that is written on a condition which the store itself checks.

    It is not removed, for stores remove without a condition, but marked as released.

    Args:
        location: the object, of s3:// or gs://.

    Raises:
        ImportError: obstore is not installed.
        OSError: the store cannot be opened with the settings of the location and the environment.
    """

    def __init__(self, location: Location) -> None:
        import obstore
        from obstore import exceptions

        self._client, self._errors = obstore, exceptions
        self._key = urlsplit(location.uri).path.lstrip("/")
        try:
            self._store = _open(location)
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

    def _put(self, content: bytes, mode: Any) -> Seen | None:
        errors = self._errors
        try:
            made = self._client.put(self._store, self._key, content, mode=mode, use_multipart=False)
        except (errors.AlreadyExistsError, errors.PreconditionError, errors.NotFoundError, FileNotFoundError):
            return None
        except errors.BaseError as error:
            raise OSError(str(error)) from error
        return Seen(content, _tag(made))


def _tag(meta: Any) -> str:
    """ETag and version, either of which a store may lack."""
    return f"{meta.get('e_tag') or ''}\n{meta.get('version') or ''}"


def _open(location: Location) -> Any:
    """The bucket, with what the URI says as pyarrow understands it; credentials are those of the environment."""
    from obstore.store import GCSStore, S3Store

    uri = urlsplit(location.uri)
    bucket = uri.netloc.rpartition("@")[2]
    if uri.scheme in ("gs", "gcs"):
        return GCSStore(bucket, client_options={"timeout": _TIMEOUT}, retry_config=_RETRIES)
    given = {name: values[-1] for name, values in parse_qs(uri.query).items()}
    config: Any = {}
    if "region" in given:
        config["region"] = given["region"]
    if "endpoint_override" in given:
        config["endpoint"] = f"{given.get('scheme', 'https')}://{given['endpoint_override']}"
    options: Any = {"timeout": _TIMEOUT, "allow_http": given.get("scheme") == "http"}
    return S3Store(bucket, config=config, client_options=options, retry_config=_RETRIES)
