"""Commands around a whole run: demo, run, report, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coevo_ray.cli import closing
from coevo_ray.cli.options import JsonFlag
from coevo_ray.cli.show import show, show_lines, show_status
from coevo_ray.progress import say


def demo(
    out: Annotated[
        str | None,
        typer.Option("--out", help="Output folder; default: coevo-demo, with --texts coevo-demo-text."),
    ] = None,
    texts: Annotated[
        bool, typer.Option("--texts", help="Docstrings of the installed libraries instead of digits.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run the whole loop on handwritten digits, or on texts; needs the extra `demo` and no download."""
    from coevo_ray.app import api

    made = api.demo(out, texts).summary
    show_lines(made, closing.of_run(made), as_json)


def run(
    file: Annotated[Path, typer.Argument(help="YAML file of the run, such as examples/digits.yaml.")],
    out: Annotated[str | None, typer.Option("--out", help="Overrides `out` of the file.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run the whole loop that a YAML file describes, or continue it."""
    from coevo_ray.config import load_config

    config = load_config(file, **({} if out is None else {"out": out}))  # a mistake shows before the slow imports
    from coevo_ray.app import api

    made = api.run(config).summary
    show_lines(made, closing.of_run(made), as_json)


def report(
    file: Annotated[Path, typer.Argument(help="YAML file of a finished run.")],
    out: Annotated[str | None, typer.Option("--out", help="Overrides `out` of the file.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the summary and the HTML report of a run whose stages are finished."""
    from coevo_ray.app import api
    from coevo_ray.config import load_config

    made = api.report(load_config(file, **({} if out is None else {"out": out}))).summary
    show_lines(made, closing.of_run(made), as_json)


def status(
    folder: Annotated[str, typer.Argument(help="Folder of a run or of any artifact, on any store.")],
    as_json: JsonFlag = False,
) -> None:
    """Show the progress of a run or any folder of artifacts, its writer, and the last error."""
    from coevo_ray.app import api

    result = api.status(folder)
    if as_json:
        show(result, True)
    else:
        show_status(result)


def doctor(
    pool: Annotated[str | None, typer.Argument(help="Also show which stages take this pool.")] = None,
    artifact: Annotated[str | None, typer.Option(help="Also verify this artifact's checksums.")] = None,
    verify: Annotated[
        str | None, typer.Option(help="Also verify every file of every artifact below this folder.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check this machine; optionally an artifact, all below a folder, or which stages take a pool."""
    from coevo_ray.app import api

    result = api.doctor(artifact, verify, pool)
    show(result, as_json)
    if not result["ok"]:
        if not as_json:  # a table leaves long lists out
            for problem in result["problems"]:
                say(problem)
        raise typer.Exit(1 if artifact is None and verify is None else 3)
