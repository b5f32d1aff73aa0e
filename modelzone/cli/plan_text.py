"""Assessments for people."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modelzone.cli.formats import UNKNOWN, gib, parameters, usd, whole
from modelzone.cli.output import note, write, write_facts, write_heading, write_table
from modelzone.cli.plan_document import candidate

if TYPE_CHECKING:
    from modelzone.planning import Assessment, MemoryPlan

__all__ = ["show_plan", "show_search"]

_HOURS_PER_MONTH = 730


def show_plan(name: str, found: Assessment, others: Sequence[Assessment]) -> None:
    """Print one candidate: what, where, memory, compilation, what the container is told, cost; or why not."""
    write_facts([*_what(name, found), *_where(found)])
    if found.memory:
        _show_memory(found.memory, found.serving.tensor_parallel_degree)
    if found.refusals:
        _show_refusals(found, others)
        return
    if found.compile:
        needs = found.compile
        write_heading("Compilation")
        host = needs.instance.name if needs.instance else UNKNOWN
        write_facts(
            [
                ("host", f"{host}, needs {gib(needs.host_memory_bytes)} GiB of memory"),
                ("disk", f"{needs.disk_gib} GiB free, {needs.root_volume_gib} GiB volume"),
            ]
        )
        write(f"$ {shlex.join(needs.command)}")
    for title, pairs in (("Container environment", found.environment), ("serving.properties", found.properties)):
        if pairs:
            write_heading(title)
            for key, value in pairs.items():
                write(f"{key}={value}")
    if found.arguments:
        write_heading("Server arguments")
        write(shlex.join(found.arguments))
    write_heading("Timeouts and cost")
    write_facts(_figures(found))
    for text in found.notes:
        write(f"note: {text}")


def _what(name: str, found: Assessment) -> list[tuple[str, str]]:
    from modelzone.architectures import kv_cache_bytes_per_token, parameter_count  # noqa: PLC0415

    model = found.model
    count = parameter_count(model.architecture)
    size = f"{model.architecture.type}, {parameters(count)} parameters, {gib(2 * count)} GiB in 16 bits"
    if token := kv_cache_bytes_per_token(model.architecture):
        size += f", {whole(token)} bytes of KV cache a token"
    return [("model", f"{name} ({model.hub_id})"), ("size", size)]


def _where(found: Assessment) -> list[tuple[str, str]]:
    serving, instance = found.serving, found.instance
    if not serving.engine:
        return []
    facts = [("engine", f"{serving.engine} {serving.engine_version}")]
    hardware = ""
    if instance:
        devices = f"{instance.devices} {instance.device_name}{'s' * (instance.devices != 1)}"
        hardware = f" ({instance.accelerators} x {instance.accelerator.name}, {devices})"
    quantization = f", {serving.quantization}" if serving.quantization else ""
    return [
        *facts,
        ("instance", f"{serving.instance_type}{hardware} in {found.region}"),
        (
            "shape",
            (
                f"tensor parallel degree {serving.tensor_parallel_degree}, batch {serving.batch_size}, sequence "
                f"{serving.sequence_length} (input up to {serving.max_input_tokens}), {serving.dtype}{quantization}"
            ),
        ),
    ]


def _show_memory(memory: MemoryPlan, degree: int) -> None:
    write_heading(f"Memory of each of {degree} {memory.device}{'s' * (degree != 1)}")
    rows = [[item.name, whole(item.bytes), gib(item.bytes), item.source] for item in memory.items]
    verdict = "fits" if memory.fits else f"{gib(memory.needed - memory.available)} GiB too much"
    if memory.fits and memory.needed > memory.available:
        verdict = "fits: the KV cache holds fewer sequences than the batch"
    rows += [
        ["needed", whole(memory.needed), gib(memory.needed), verdict],
        ["available", whole(memory.available), gib(memory.available), ""],
    ]
    write_table(["HOLDS", "BYTES>", "GIB>", "SOURCE"], rows)


def _figures(found: Assessment) -> list[tuple[str, str]]:
    serving, hour, rate = found.serving, found.usd_per_hour, found.throughput
    month = None if hour is None else hour * _HOURS_PER_MONTH
    facts = [
        ("health check", f"{serving.health_check_timeout_seconds} s to load and answer"),
        ("download", f"{serving.download_timeout_seconds} s to fetch the model"),
        ("cost", f"{usd(hour)} USD an hour, {usd(month)} a month, one instance"),
    ]
    if rate is not None:
        facts += [
            ("throughput", f"{rate.tokens_per_second:,.0f} output tokens a second ({rate.basis})"),
            ("tokens", f"{usd(found.usd_per_million_tokens)} USD per million output tokens, never idle"),
        ]
    return facts


def _show_refusals(found: Assessment, others: Sequence[Assessment]) -> None:
    write("")
    for refusal in found.refusals:
        write(f"refused: {refusal.key} {refusal.value!r} {refusal.problem}")
        write(f"  fix: {refusal.fix}")
    if others:
        write_heading("What would fit, cheapest tokens first")
        _show_candidates([candidate(other) for other in others])
    else:
        write("Nothing that this project knows would fit.")


def show_search(document: dict[str, Any]) -> None:
    """Print a ranking."""
    shown, found = len(document["candidates"]), document["found"]
    if not found:
        note(f"error: nothing that this project knows serves {document['model']} so; leave out options")
        return
    order = "US dollars per million output tokens" if document["by"] == "tokens" else "US dollars an hour"
    write(f"{document['model']} in {document['region']}: {found} ways fit, {shown} shown, by {order}")
    _show_candidates(document["candidates"])


def _show_candidates(rows: Sequence[dict[str, Any]]) -> None:
    columns = ["ENGINE", "VERSION", "INSTANCE", "DEGREE>", "BATCH>", "GIB>", "OF>"]
    lines = [
        [
            row["engine"],
            row["engine_version"],
            row["instance_type"],
            str(row["tensor_parallel_degree"]),
            str(row["batch_size"]),
            gib(row["memory_needed_bytes"]) if row["memory_needed_bytes"] is not None else UNKNOWN,
            gib(row["memory_available_bytes"]) if row["memory_available_bytes"] is not None else UNKNOWN,
            usd(row["usd_per_hour"]),
            f"{row['tokens_per_second']:,.0f}" if row["tokens_per_second"] is not None else UNKNOWN,
            usd(row["usd_per_million_tokens"]),
            "yes" if row["deployable"] else "no",
        ]
        for row in rows
    ]
    write_table([*columns, "USD/H>", "TOKENS/S>", "USD/MTOK>", "STACK"], lines)
    sequence = "; ".join(str(length) for length in dict.fromkeys(row["sequence_length"] for row in rows))
    write(f"Sequence length {sequence}. GIB: of each device. TOKENS/S: output tokens, assumed, not measured.")
    write("STACK: whether a stack of this project deploys it yet; the others can be planned and compared.")
