"""Synthesises environments for the tests and reads their templates."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(__file__).parent / "data"
CONTEXT: dict[str, Any] = json.loads((ROOT / "cdk.json").read_text(encoding="utf-8"))["context"]
# Environments of the repository, and those that only tests have.
ENVIRONMENTS = ("dev", "prod", "existing", "shared", "two", "borrows", "everything", "signed", "pool")

Properties = Mapping[str, Any]


@dataclass(frozen=True)
class Resource:
    """One resource of a template."""

    stack: str
    logical_id: str
    type: str
    properties: Properties
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Zone:
    """A synthesised environment: its plan, its folder and its templates by stack id."""

    name: str
    plan: Any
    folder: Path

    @cached_property
    def templates(self) -> dict[str, dict[str, Any]]:
        suffix = ".template.json"
        return {
            path.name.removesuffix(suffix): json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(self.folder.glob(f"*{suffix}"))
        }

    @cached_property
    def manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        return manifest

    def resources(self, kind: str | None = None, *, stack: str | None = None) -> Iterator[Resource]:
        for name, template in self.templates.items():
            for logical_id, body in template["Resources"].items():
                if kind in (None, body["Type"]) and stack in (None, name):
                    yield Resource(name, logical_id, body["Type"], body.get("Properties", {}), body)

    def one(self, kind: str, *, stack: str | None = None) -> Resource:
        (found,) = self.resources(kind, stack=stack)
        return found

    def statements(self) -> Iterator[tuple[Resource, dict[str, Any]]]:
        """Allow statements of identity policies, actions and resources as lists."""
        for resource in self.resources():
            if resource.type in {"AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"}:
                documents = [resource.properties["PolicyDocument"]]
            elif resource.type == "AWS::IAM::Role":
                documents = [policy["PolicyDocument"] for policy in resource.properties.get("Policies", [])]
            else:
                continue
            for document in documents:
                for statement in document["Statement"]:
                    if statement["Effect"] == "Allow":
                        yield (
                            resource,
                            {
                                **statement,
                                "Action": as_list(statement["Action"]),
                                "Resource": as_list(statement["Resource"]),
                            },
                        )


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def text(value: Any) -> str:
    """A template's value as text, with references in angle brackets: enough to compare and to search."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and len(value) == 1:
        ((function, argument),) = value.items()
        if function == "Fn::Join":
            return str(argument[0]).join(text(part) for part in argument[1])
        if function == "Fn::Sub" and isinstance(argument, str):
            return argument.replace("${", "<").replace("}", ">")
        if function in {"Fn::ImportValue", "Ref", "Fn::GetAtt"}:
            return f"<{'.'.join(as_list(argument))}>"
    return json.dumps(value, sort_keys=True)


def project_root(folder: Path) -> Path:
    """A project root that holds the repository's environments and models, and the tests' own environments."""
    for name in ("environments", "models"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copytree(DATA / "environments", folder / "environments", dirs_exist_ok=True)
    return folder


def one_order(zone: Zone, deployment: str) -> Resource:
    """The parameter that says how a deployment is compiled."""
    name = f"/modelzone/{zone.name}/compile/orders/{deployment}"
    (found,) = [r for r in zone.resources("AWS::SSM::Parameter", stack="CompileStack") if r.properties["Name"] == name]
    return found


def proxy_function(zone: Zone) -> Resource:
    """The invoke proxy, which is the only function under the web adapter."""
    functions = zone.resources("AWS::Lambda::Function", stack="GatewayStack")
    (found,) = [function for function in functions if function.properties["Handler"] == "run.sh"]
    return found


def expected_order(zone: Zone, deployment: str) -> dict[str, Any]:
    """What an order will say, with names in the place of references."""
    order: dict[str, Any] = json.loads(text(one_order(zone, deployment).properties["Value"]))
    return order
