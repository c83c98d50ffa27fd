"""A connection to a Label Studio server: token, retries, and errors with their remedy.

The token comes from the environment, stays in the SDK's client and goes to one server: redirects elsewhere are refused.
Errors of the SDK are never shown themselves: they
carry headers with session cookies.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from coevo_ray.annotators.label_studio_recipients import same_server
from coevo_ray.errors import CoevoError, InputError, StoppedError, UsageError

if TYPE_CHECKING:
    import httpx
    from label_studio_sdk.client import LabelStudio as Client

TOKEN = "LABEL_STUDIO_API_KEY"
_Result = TypeVar("_Result")
_TRY_LATER = (408, 409, 425, 429)
_LONGEST_DETAIL = 300


class Connection:
    """Calls a server through the official SDK.

    Args:
        url: of the server.
        attempts: calls before the server counts as out of reach.
        pause_s: seconds before the second attempt; each further pause is twice as long.
        timeout_s: longest wait for one answer in seconds.

    Raises:
        UsageError: the SDK is not installed, or there is no token.
    """

    def __init__(self, url: str, attempts: int = 4, pause_s: float = 1.0, timeout_s: float = 120.0) -> None:
        self.url, self.attempts, self.pause_s, self.timeout_s = url.rstrip("/"), attempts, pause_s, timeout_s
        self._client: Client | None = None
        _sdk()
        _token()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_client": None}  # the token does not travel

    def call(self, function: Callable[[Client], _Result], attempts: int | None = None) -> _Result:
        """Calls the server, and retries after faults that may pass.

        Args:
            function: works with the SDK's client; it must be harmless when it runs twice.
            attempts: None for the connection's own number.

        Raises:
            UsageError: the token was refused.
            InputError: the server refused the request, or is no Label Studio.
            StoppedError: the server is out of reach or fails.
        """
        attempts = attempts or self.attempts
        for attempt in range(1, attempts + 1):
            try:
                return self._once(function)
            except StoppedError:
                if attempt == attempts:
                    raise
            self.pause(attempt)
        raise AssertionError("unreachable")

    def pause(self, attempt: int) -> None:
        """Waits after a failed attempt; the first is 1."""
        time.sleep(self.pause_s * 2 ** (attempt - 1))

    def _once(self, function: Callable[[Client], _Result]) -> _Result:
        import httpx
        from label_studio_sdk.core.api_error import ApiError

        try:
            return function(self._open())
        except httpx.HTTPError as error:
            # Not chained: the failed request has the token in its headers.
            raise StoppedError(
                f"Label Studio at {self.url} is out of reach: {type(error).__name__} {_clean(error)}",
                "start the server or correct the url, then run the same command again: existing tasks are kept",
            ) from None
        except ApiError as error:
            raise self._refused(error.status_code or 0, error.body) from None
        except ValueError:
            raise self._no_label_studio() from None

    def _open(self) -> Client:
        if self._client is None:
            import httpx

            hooks = {"request": [self._check_recipient]}
            http = httpx.Client(timeout=self.timeout_s, follow_redirects=True, event_hooks=hooks)
            self._client = _sdk()(
                base_url=self.url, api_key=_token(), timeout=self.timeout_s, max_retries=0, httpx_client=http
            )
        return self._client

    def _check_recipient(self, request: httpx.Request) -> None:
        """Called before each request, those of redirects too."""
        address = str(request.url)
        if not same_server(self.url, address):
            raise UsageError(
                f"Label Studio at {self.url} redirects to {request.url.scheme}://{request.url.host}, where the token "
                "is not sent",
                "give the address of the server itself; if it has moved: coevo-ray gate set --annotator label_studio "
                "--url ... --project ...",
            )

    def _refused(self, status: int, body: object) -> CoevoError:
        detail = _clean(_detail(body))
        if status in (401, 403):
            return UsageError(
                f"Label Studio at {self.url} refuses the token in {TOKEN} ({status}): {detail}",
                "give a token of a user who may edit the project, from the page Account & Settings; legacy tokens may "
                "have to be enabled for the organisation",
            )
        if status in _TRY_LATER or status >= 500:
            return StoppedError(
                f"Label Studio at {self.url} fails ({status}): {detail}",
                "see the server's log, then run the same command again: existing tasks are kept",
            )
        if status < 400:
            return self._no_label_studio()
        return InputError(
            f"Label Studio at {self.url} refuses the request ({status}): {detail}", "check the url and the project"
        )

    def _no_label_studio(self) -> InputError:
        return InputError(
            f"{self.url} answers, but not as Label Studio does", "give the address of the server, without a page"
        )


def _sdk() -> type[Client]:
    try:
        from label_studio_sdk.client import LabelStudio as Client
    except ImportError as error:
        raise UsageError(
            "the label_studio annotator needs the package label-studio-sdk", "pip install 'coevo-ray[labelstudio]'"
        ) from error
    return Client


def _token() -> str:
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise UsageError(
            f"there is no token for Label Studio: {TOKEN} is not set",
            f"copy an access token from the server's page Account & Settings and export {TOKEN}=...",
        )
    return token


def _detail(body: object) -> str:
    if isinstance(body, dict):
        parts = [body.get("detail"), body.get("validation_errors")]
        return ": ".join(str(part) for part in parts if part) or "no reason given"
    return "no reason given" if body is None else str(body)


def _clean(text: object) -> str:
    """One short line without the token, should a server repeat it."""
    plain = " ".join(str(text).split()).replace(os.environ.get(TOKEN, "").strip() or "\0", "***")
    return plain[:_LONGEST_DETAIL]
