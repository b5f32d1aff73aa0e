"""``modelzone prices``: the price tables."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from modelzone.cli.exits import ExitCode
from modelzone.cli.formats import UNKNOWN, usd
from modelzone.cli.options import JsonOption, examples
from modelzone.cli.output import note, write, write_facts, write_heading, write_json, write_table
from modelzone.errors import ModelzoneError

_SHOW = examples("modelzone prices show", "modelzone prices show --region eu-west-1", "modelzone prices show --json")
_REFRESH = examples("modelzone prices refresh", "modelzone prices refresh --region us-east-1 --region eu-west-1")


def add_to(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Show and refresh the price tables.",
        epilog=examples("modelzone prices show", "modelzone prices refresh --region eu-west-1"),
        rich_markup_mode=None,
    )
    group.command("show", epilog=_SHOW)(show)
    group.command("refresh", epilog=_REFRESH)(refresh)
    app.add_typer(group, name="prices")


def _complete_region(incomplete: str) -> list[str]:
    from modelzone.prices import priced_regions  # noqa: PLC0415

    return [region for region in priced_regions() if region.startswith(incomplete)]


_Regions = Annotated[
    list[str] | None,
    typer.Option(
        "--region", metavar="REGION", help="Only this region. Can be repeated.", autocompletion=_complete_region
    ),
]


def show(*, region: _Regions = None, as_json: JsonOption = False) -> None:
    """Print the on-demand prices that this project knows, with their dates and sources."""
    from modelzone.prices import priced_regions  # noqa: PLC0415

    wanted = tuple(dict.fromkeys(region or priced_regions()))
    if unknown := [name for name in wanted if name not in priced_regions()]:
        raise ModelzoneError(
            f"the tables have no prices of {', '.join(unknown)}; they have: {', '.join(priced_regions())}"
        )
    rows = [_row(name) for name in wanted]
    if as_json:
        write_json({"regions": rows})
        return
    for row in rows:
        write_heading(row["region"])
        lines = [
            [p["name"], usd(p["usd"]), p["unit"], p["date"], "yes" if p["verified"] else "no", p["source"]]
            for p in row["prices"]
        ]
        write_table(["WHAT", "USD>", "PER", "DATE", "VERIFIED", "SOURCE"], lines)
        if row["unknown"]:
            write(f"{UNKNOWN}: {', '.join(row['unknown'])}")


def _row(region: str) -> dict[str, Any]:
    from modelzone.hardware import find_instance, instance_types  # noqa: PLC0415
    from modelzone.prices import RESOURCES, instance_price, resource_price  # noqa: PLC0415

    prices = {kind: resource_price(kind, region=region) for kind in RESOURCES}
    for name in instance_types():
        instance = find_instance(name)
        prices[name] = instance_price(name, region=region)
        if instance is not None and instance.sagemaker:
            prices[instance.ml_name] = instance_price(instance.ml_name, region=region)
    known = [
        {"name": n, "usd": p.usd, "unit": p.unit, "date": p.date, "source": p.source, "verified": p.verified}
        for n, p in prices.items()
        if p is not None
    ]
    return {"region": region, "prices": known, "unknown": [name for name, price in prices.items() if price is None]}


def refresh(*, region: _Regions = None, as_json: JsonOption = False) -> None:
    """Read all prices from AWS's Price List and rewrite the tables.

    Needs credentials that allow pricing:GetProducts. What cannot be read stays as it was, and is listed.
    """
    import datetime  # noqa: PLC0415
    from dataclasses import asdict  # noqa: PLC0415

    import boto3  # noqa: PLC0415 - half a second

    from modelzone.prices.refresh import refresh as read_prices  # noqa: PLC0415

    done = read_prices(
        # The Price List has endpoints in few regions; this one has the prices of all.
        lambda: boto3.client("pricing", region_name="us-east-1"),
        today=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        regions=tuple(dict.fromkeys(region or ())),
    )
    if as_json:
        write_json(asdict(done))
    else:
        write_facts([("table", done.path), ("read", str(done.read)), ("changed", str(len(done.changes)))])
        if done.changes:
            columns = ["REGION", "WHAT", "BEFORE>", "AFTER>"]
            write_table(columns, [[c.region, c.name, usd(c.before), usd(c.after)] for c in done.changes])
        for price in done.unread:
            kept = UNKNOWN if price.kept is None else f"keeps {usd(price.kept)}"
            note(f"warning: {price.region} {price.name}: {price.reason}; {kept}")
    if not done.read:
        raise typer.Exit(ExitCode.REFUSED)
