"""The command submit."""

from __future__ import annotations

from typing import Annotated

import typer

from coevo_ray.cli.options import JsonFlag
from coevo_ray.cli.show import show

submit_app = typer.Typer(add_completion=False, rich_markup_mode=None)


@submit_app.command("submit", context_settings={"allow_extra_args": True, "allow_interspersed_args": False})
def submit(
    context: typer.Context,
    address: Annotated[
        str | None,
        typer.Option(help="Dashboard of the cluster, http://HEAD:8265; by default RAY_API_SERVER_ADDRESS, or here."),
    ] = None,
    working_dir: Annotated[
        str | None,
        typer.Option(help="Folder to upload with the job, such as your own modules; paths are relative to it."),
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(help="Name of an environment variable to pass to the job; may be repeated.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Follow the job to its end and exit with its exit code.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Run a command as a job on a Ray cluster and follow it; its output identifies the job.

    Options of submit come before the command: coevo-ray submit --address http://head:8265 run mine.yaml --out s3://bucket/mine
    """
    from coevo_ray.app import api

    result = api.submit(context.args, address, working_dir, env or (), wait)
    show(result, as_json)
    if wait and result["exit_code"]:
        raise typer.Exit(result["exit_code"])
