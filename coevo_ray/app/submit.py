"""`coevo-ray submit`: a command as a job of a Ray cluster, found again by its output."""

from __future__ import annotations

import asyncio
import itertools
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coevo_ray.config import load_config
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import CoevoError, StoppedError, UsageError
from coevo_ray.progress import say
from coevo_ray.store.digests import digest
from coevo_ray.store.location import Location

_ADDRESS = "http://127.0.0.1:8265"
_OUT, _PREFIX = "coevo_ray_out", "coevo-"
_CODES = (0, 1, 2, 3, 4)  # exit codes of the command line


def submit(
    command: Sequence[str],
    address: str | None = None,
    working_dir: str | os.PathLike[str] | None = None,
    env: Sequence[str] = (),
    wait: bool = True,
) -> JsonObject:
    """Submits a command as a job; if one with the same output is running, follows it instead.

    Args:
        command: of the command line, for instance `["run", "mine.yaml", "--out", "s3://bucket/mine"]`; the output must
            be a place that all nodes see. The file of `run` is sent with it.
        address: of the cluster's dashboard; None for RAY_API_SERVER_ADDRESS, or port 8265 of this machine.
        working_dir: folder to upload to the cluster, with your modules that the file names; paths in the command are
            relative to it.
        env: names of environment variables of this process to pass to the job; anyone who can see the cluster's jobs
            sees their values.
        wait: follow the job's logs, on stderr, to its end.

    Returns:
        `id`, `status` (PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED), `exit_code` of the command (None until it
        ended), `out`, `found` (whether it was already running) and `address`.

    Raises:
        UsageError: the cluster cannot be reached, the output is not a place that all nodes see, a variable is not set,
            or the job was stopped before the command ended.
        StoppedError: the cluster was lost while the job was followed.
    """
    out = _output_of(command)
    where = address or os.environ.get("RAY_API_SERVER_ADDRESS") or _ADDRESS
    variables = _variables(env)
    client = _client(where)
    found = _under_way(client, out)
    if found is None:
        with _sent(command, working_dir) as (folder, sent):
            given = {"working_dir": folder, **({"env_vars": variables} if variables else {})}
            entry = shlex.join(["python", "-m", "coevo_ray", *sent])
            identity = f"{_PREFIX}{digest([out])[:12]}-{digest([os.urandom(8).hex()])[:6]}"
            job = client.submit_job(
                entrypoint=entry, submission_id=identity, runtime_env=given, metadata={_OUT: out, "command": entry}
            )
    else:
        job = found
        say(f"{job} already writes {out}: following it; nothing is submitted")
    say(f"job {job} at {where}; its state without a cluster: coevo-ray status {out}")
    if wait:
        _follow(client, job)
    info = client.get_job_info(job)
    code = getattr(info, "driver_exit_code", None)
    told = {"id": job, "status": str(info.status.value), "exit_code": code, "out": out, "found": found is not None}
    if wait and code not in _CODES:
        raise StoppedError(
            f"job {job} is {told['status']}: {str(info.message or 'no message').strip().splitlines()[-1]}",
            "submit it again: finished parts are kept",
        )
    return {**told, "address": where}


def _output_of(command: Sequence[str]) -> str:
    """The absolute output of a command.

    Raises:
        UsageError: it names no output, or a relative one.
    """
    if not command:
        raise UsageError("there is no command to submit", "coevo-ray submit [OPTIONS] run FILE --out PLACE")
    out = next((after for name, after in itertools.pairwise(command) if name == "--out"), None)
    out = next((each.partition("=")[2] for each in command if each.startswith("--out=")), out)
    if out is None and command[0] == "run" and len(command) > 1:
        out = load_config(Path(command[1])).out
    if out is None:
        raise UsageError(f"{command[0]} without --out", "name its output, which identifies the job")
    if "://" not in out and not Path(out).is_absolute():
        raise UsageError(
            f"the output {out} is relative, and nodes have different folders",
            "give --out as an absolute path of a volume that all nodes see, or as s3://... or gs://...",
        )
    return out if "://" in out else str(Location.parse(out))  # what a store needs to be opened is there, not here


def _variables(names: Sequence[str]) -> dict[str, str]:
    absent = [name for name in names if name not in os.environ]
    if absent:
        raise UsageError(f"environment variables that are not set: {', '.join(absent)}", "set them, or leave --env out")
    return {name: os.environ[name] for name in names}


def _client(address: str) -> Any:
    """A client of the cluster's jobs.

    Raises:
        UsageError: it cannot be reached.
    """
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"cannot reach the jobs of the Ray cluster at {address}: {' '.join(str(error).split())[:300]}",
            "give --address http://HEAD:8265 (a dashboard; kubectl port-forward for Kubernetes); with token "
            "authentication also RAY_AUTH_MODE=token and the token",
        ) from error


def _under_way(client: Any, out: str) -> str | None:
    """The job that writes to an output now."""
    from ray.job_submission import JobStatus

    for job in client.list_jobs():
        if (job.metadata or {}).get(_OUT) == out and job.status in (JobStatus.PENDING, JobStatus.RUNNING):
            return str(job.submission_id)
    return None


@contextmanager
def _sent(command: Sequence[str], working_dir: str | os.PathLike[str] | None) -> Iterator[tuple[str, list[str]]]:
    """The folder to send, and the command as it is called there."""
    if working_dir is not None:
        yield os.fspath(working_dir), list(command)
        return
    with tempfile.TemporaryDirectory(prefix="coevo-submit-") as folder:
        sent = list(command)
        if command[0] == "run" and len(command) > 1 and Path(command[1]).is_file():
            shutil.copy(command[1], folder)
            sent[1] = Path(command[1]).name
        yield folder, sent


def _follow(client: Any, job: str) -> None:
    """Writes a job's logs to stderr until it ends.

    Raises:
        StoppedError: the cluster was lost, or Ctrl-C: the job goes on.
    """

    async def follow() -> None:
        async for lines in client.tail_job_logs(job):
            sys.stderr.write(lines)
            sys.stderr.flush()

    remedy = "the job goes on without this process: submit the same again to follow it"
    try:
        asyncio.run(follow())
    except KeyboardInterrupt:
        raise StoppedError(f"no longer following {job}", remedy) from None
    except CoevoError:
        raise
    except Exception as error:  # of the client's HTTP library
        raise StoppedError(f"lost the cluster while following {job}: {error}", remedy) from error
