"""Assessments as plain data: what ``modelzone plan --json`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from modelzone.planning import Assessment, CompileNeeds, MemoryPlan

__all__ = ["candidate", "plan_document", "search_document"]

_HOURS_PER_MONTH = 730
_BYTES_16_BIT = 2


def plan_document(name: str, found: Assessment, others: Sequence[Assessment]) -> dict[str, Any]:
    """One candidate with everything that follows from it."""
    from msgspec import to_builtins  # noqa: PLC0415

    hour = found.usd_per_hour
    return {
        "model": _model(name, found),
        "region": found.region,
        "fits": found.fits,
        "serving": to_builtins(found.serving),
        "instance": _instance(found),
        "memory": _memory(found.memory, found.serving.tensor_parallel_degree) if found.memory else None,
        "compile": _compile(found.compile) if found.compile else None,
        "environment": None if found.environment is None else dict(found.environment),
        "serving_properties": None if found.properties is None else dict(found.properties),
        "arguments": list(found.arguments),
        "usd_per_hour": hour,
        "usd_per_month": None if hour is None else hour * _HOURS_PER_MONTH,
        "throughput": _throughput(found),
        "usd_per_million_tokens": found.usd_per_million_tokens,
        "notes": list(found.notes),
        "refusals": [
            {"key": r.key, "value": to_builtins(r.value), "problem": r.problem, "fix": r.fix} for r in found.refusals
        ],
        "alternatives": [candidate(other) for other in others],
    }


def search_document(
    name: str, found: Sequence[Assessment], *, region: str, by: Literal["tokens", "hour"], limit: int
) -> dict[str, Any]:
    """Candidates that fit, ranked."""
    return {
        "model": name,
        "region": region,
        "by": by,
        "found": len(found),
        "candidates": [candidate(each) for each in found[:limit]],
    }


def candidate(found: Assessment) -> dict[str, Any]:
    """One line of a ranking."""
    serving, memory = found.serving, found.memory
    return {
        "engine": serving.engine,
        "engine_version": serving.engine_version,
        "instance_type": serving.instance_type,
        "tensor_parallel_degree": serving.tensor_parallel_degree,
        "batch_size": serving.batch_size,
        "sequence_length": serving.sequence_length,
        "deployable": bool(found.version and found.version.deployable),
        "memory_needed_bytes": memory.needed if memory else None,
        "memory_available_bytes": memory.available if memory else None,
        "usd_per_hour": found.usd_per_hour,
        "tokens_per_second": found.throughput.tokens_per_second if found.throughput else None,
        "usd_per_million_tokens": found.usd_per_million_tokens,
    }


def _model(name: str, found: Assessment) -> dict[str, Any]:
    from modelzone.architectures import kv_cache_bytes_per_token, parameter_count  # noqa: PLC0415

    model, count = found.model, parameter_count(found.model.architecture)
    return {
        "name": name,
        "hub_id": model.hub_id,
        "type": model.architecture.type,
        "parameters": count,
        "bytes_16_bit": count * _BYTES_16_BIT,
        "kv_cache_bytes_per_token": kv_cache_bytes_per_token(model.architecture),
        "context_length": model.architecture.context_length,
    }


def _instance(found: Assessment) -> dict[str, Any] | None:
    instance = found.instance
    if instance is None:
        return None
    return {
        "name": instance.name,
        "accelerator": instance.accelerator.name,
        "accelerators": instance.accelerators,
        "device": instance.device_name,
        "devices": instance.devices,
        "device_memory_bytes": instance.device_memory_bytes,
    }


def _memory(memory: MemoryPlan, degree: int) -> dict[str, Any]:
    return {
        "device": memory.device,
        "devices": degree,
        "items": [{"name": item.name, "bytes": item.bytes, "source": item.source} for item in memory.items],
        "needed_bytes": memory.needed,
        "available_bytes": memory.available,
        "fits": memory.fits,
    }


def _compile(needs: CompileNeeds) -> dict[str, Any]:
    return {
        "instance_type": needs.instance.name if needs.instance else None,
        "host_memory_bytes": needs.host_memory_bytes,
        "disk_gib": needs.disk_gib,
        "root_volume_gib": needs.root_volume_gib,
        "command": list(needs.command),
    }


def _throughput(found: Assessment) -> dict[str, Any] | None:
    if found.throughput is None:
        return None
    return {"tokens_per_second": found.throughput.tokens_per_second, "basis": found.throughput.basis}
