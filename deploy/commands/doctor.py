"""`illo doctor`: what is wrong with this machine's illo, and what to do about it."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from deploy.console import Ending, print_json, say, speaks_json

if TYPE_CHECKING:
    from deploy.findings import Finding
    from worker.pipeline.weights.probe import Probed

MB = 10**6


@click.command()
@click.option("--probe", "probed", metavar="gs://BUCKET/PREFIX",
              help="Also measure the link to these weights, or to one object: it is read for a few "
              "seconds each with 1, 8 and 32 connections.")  # fmt: skip
@speaks_json
def doctor(probed: str | None, as_json: bool) -> int:
    """Look at settings, weights, device and backends; end with 1 if something is wrong.

    Nothing is changed, and of secrets no value is shown.
    """
    from deploy.findings import State

    findings, measured = _look(probed, as_json=as_json)
    if as_json:
        document = {"findings": [asdict(each) for each in findings]}
        print_json(document | ({"probe": _document(measured)} if measured else {}))
    elif measured:
        _tell(measured)
    wrong = any(each.state is State.WRONG for each in findings)
    return Ending.JOB_FAILED if wrong else Ending.DONE


def _look(probed: str | None, *, as_json: bool) -> "tuple[list[Finding], Probed | None]":
    from deploy.checkup import examine
    from deploy.findings import Finding, State
    from deploy.progress import Display
    from shared.errors import WeightsError

    with Display() as display:
        findings = list(
            examine(on_part=lambda part, done: display.show(_looking(part, done), "", done))
        )
    measured = None
    if probed is not None:
        try:
            with Display() as display:
                measured = _probe(
                    probed,
                    lambda number, fraction: display.show(
                        f"reading with {number} connections", "", fraction
                    ),
                )
        except WeightsError as error:
            findings.append(Finding(what="probe", state=State.WRONG, said=str(error)))
    for finding in [] if as_json else findings:
        click.echo(f"{finding.state:5}  {finding.what:9}  {finding.said}")
    return findings, measured


def _looking(part: str, done: float) -> str:
    return f"looked at {part}" if done == 1.0 else f"looking at {part}"


def _probe(place: str, on_rate: Any) -> "Probed":
    from shared.cloud_folders import read_cloud_folder
    from shared.settings import process_environment

    try:
        folder = read_cloud_folder(place)
    except ValueError as wrong:
        raise click.BadParameter(str(wrong), param_hint="--probe") from None
    if folder is None:
        raise click.BadParameter("must begin with gs://", param_hint="--probe")
    try:
        from worker.pipeline.weights.probe import probe
    except ModuleNotFoundError as missing:
        raise click.UsageError(
            f"{missing.name} is not installed; install illo with its worker: illo[worker]"
        ) from None
    emulator = process_environment().get("STORAGE_EMULATOR_HOST")
    return probe(folder, emulator=emulator, on_rate=on_rate)


def _document(probed: "Probed") -> dict[str, object]:
    return {
        "object": probed.object,
        "object_bytes": probed.object_bytes,
        "label": probed.label,
        "weights_bytes": probed.whole,
        "telling": probed.telling,
        "rates": [
            {
                **asdict(rate),
                "bytes_per_second": rate.bytes_per_second,
                "seconds_for_weights": rate.seconds_for(probed.whole),
            }
            for rate in probed.rates
        ],
    }


def _tell(probed: "Probed") -> None:
    from deploy.tables import print_table

    all_ = f"{probed.label or 'it'}, {probed.whole / MB:,.0f} MB"
    click.echo(f"\n{probed.object}, {probed.object_bytes / MB:,.1f} MB")
    rows = [
        {
            "connections": rate.connections,
            "read": f"{rate.bytes / MB:,.1f} MB in {rate.seconds:.1f} s",
            "MB/s": f"{rate.bytes_per_second / MB:,.1f}",
            f"all of {all_}": _duration(rate.seconds_for(probed.whole)),
        }
        for rate in probed.rates
    ]
    print_table(rows)
    if not probed.telling:
        say("this object is too small to tell how fast the link is")


def _duration(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:,.1f} s"
