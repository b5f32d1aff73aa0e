"""Plans of deployments: what the stacks need, checked once, computed nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace as replace_dataclass
from typing import Literal

from msgspec.structs import replace

from modelzone.artifacts import ArtifactFacts, artifact_prefix
from modelzone.engines import ENGINES, image_account, image_uri
from modelzone.errors import SettingsError
from modelzone.hardware import Instance, family, find_instance
from modelzone.planning.assess import assess
from modelzone.planning.assessment import Assessment
from modelzone.planning.checks import instances_of
from modelzone.planning.compilation import CompileNeeds, compile_hosts, mirror_host
from modelzone.planning.limits import fitting_degrees, maximum_sequence_length
from modelzone.planning.memory import GIB, MemoryPlan
from modelzone.settings import Environment, Model, ModelProfile, Serving, merge_serving

__all__ = ["CompileHostChoice", "CompilePlan", "DeploymentPlan", "plan_deployment"]


@dataclass(frozen=True, kw_only=True)
class CompileHostChoice:
    """An EC2 instance type that can compile, the devices (chips or GPUs) that must be seen on it, and its degrees."""

    instance_type: str
    devices: int
    tensor_parallel_degrees: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class CompilePlan:
    """What the compile host needs.

    Attributes
    ----------
    hosts
        Types that can export the model, in the order in which they are tried.
    mirror_instance_type
        The type that copies weights to S3 where nothing is compiled.
    accelerator, layout
        What the host looks for, and how the result is laid out (`engines.Compiler`).
    weights_source
        ``hub``, or ``s3`` in an environment without a way to the internet: then they must have been mirrored.
    ami_parameter
        Public SSM parameter that holds the AMI.
    root_volume_gib, min_free_gib
        Size of its disk, and what must be free when the job starts: weights, their export and the container image.
    min_memory_gib
        Host memory that must be there: the compiler is killed without a word where it is not.
    image_repository
        Name of the image's repository in the engine's registry.
    export_command
        With placeholders for folders and for the shapes, which the compile job fills from the facts.
    properties
        Lines of the ``serving.properties`` that the export reads; empty for other engines.
    """

    hosts: tuple[CompileHostChoice, ...]
    mirror_instance_type: str
    accelerator: Literal["neuron", "nvidia", "none"]
    layout: str
    weights_source: Literal["hub", "s3"]
    ami_parameter: str
    root_volume_gib: int
    min_free_gib: int
    min_memory_gib: int
    image_uri: str
    image_repository: str
    export_command: tuple[str, ...]
    properties: Mapping[str, str]

    @property
    def instance_type(self) -> str:
        """The type that is tried first."""
        return self.hosts[0].instance_type


@dataclass(frozen=True, kw_only=True)
class DeploymentPlan:
    """The frozen, validated result for one deployment.

    Attributes
    ----------
    stack_id
        Construct id of its stack, what ``cdk deploy`` is given.
    container_environment
        Start variables that do not depend on the artifact's shapes.
    maximum_sequence_length
        Longest sequence that fits with this tensor parallel degree and batch size 1; bounds the deploy-time parameter.
    allowed_tensor_parallel_degrees
        For each SageMaker instance type of the family, the degrees with which the model fits.
    target_concurrency
        Concurrent requests per instance that autoscaling holds.
    usd_per_hour
        On-demand price of one instance, None when the price table has none for the region.
    features
        What its engine can do, in the words of `engines.EngineVersion`.
    cache_ttl_seconds
        How long the gateway may give a deterministic answer again; 0: it asks every time.
    notes
        What the planner has to say about it.
    """

    environment: str
    region: str
    name: str
    stack_id: str
    model: Model
    serving: Serving
    instance: Instance
    image_uri: str
    image_account: str
    dialect: str
    inference_ami_version: str | None
    volume_size_gib: int | None
    container_environment: Mapping[str, str]
    facts: ArtifactFacts
    memory: MemoryPlan
    maximum_sequence_length: int
    allowed_tensor_parallel_degrees: Mapping[str, tuple[int, ...]]
    target_concurrency: int
    usd_per_hour: float | None
    compile: CompilePlan
    features: frozenset[str]
    cache_ttl_seconds: int
    notes: tuple[str, ...]

    @property
    def endpoint_prefix(self) -> str:
        """How the endpoint's name begins; the stack adds its own id."""
        return _endpoint_prefix(self.environment, self.name)

    @property
    def camel_name(self) -> str:
        """The name as construct ids and outputs have it: ``my-model`` becomes ``MyModel``."""
        return _camel(self.name)

    @property
    def compile_hint(self) -> str:
        """What to do when the artifact is missing, as a sentence."""
        hint = f"Compile it: modelzone compile {self.name} -e {self.environment}."
        if self.compile.weights_source == "s3":
            hint += (
                " This environment has no way to the model hub (egress: none): the weights must be in its model store "
                "first, by modelzone compile --weights-only in an environment that shares it (docs/compiling.md)."
            )
        return hint

    @property
    def artifact_prefix(self) -> str:
        """Where the artifact lies in the model bucket, with the values known at synth."""
        return artifact_prefix(self.facts.as_dict())


_STACK_PREFIXES = {"inf2": "Inferentia"}
# SageMaker's limit is 63 characters; the stack adds a hyphen and eight digits.
_ENDPOINT_PREFIX_CHARACTERS = 54


def _endpoint_prefix(environment: str, deployment: str) -> str:
    return f"modelzone-{environment}-{deployment}"


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("-"))


def plan_deployment(environment: Environment, name: str, profile: ModelProfile, *, source: str) -> DeploymentPlan:
    """Check one deployment of an environment and derive everything that the stacks need.

    Parameters
    ----------
    source
        The file that errors are to name.

    Raises
    ------
    SettingsError
        An engine, version, image, instance type or tensor parallel degree does not exist or does not fit.
    """
    prefix = f"deployments.{name}"
    serving = merge_serving(profile, environment.deployments[name], source=f"{source}: {prefix}")
    found = assess(profile.model, serving, region=environment.region)
    if found.refusals:
        first, *others = found.refusals
        also = ", ".join(sorted({refusal.key for refusal in others} - {first.key}))
        if also:
            first = replace_dataclass(first, fix=f"{first.fix} (also refused: {also}; see modelzone plan)")
        # The region is the environment's own key, not the deployment's.
        raise first.error(source=source, prefix="" if first.key == "region" else prefix)
    endpoint_prefix = _endpoint_prefix(environment.name, name)
    if len(endpoint_prefix) > _ENDPOINT_PREFIX_CHARACTERS:
        raise SettingsError(
            source=source,
            key=prefix,
            problem=f"the endpoint's name would begin with {endpoint_prefix!r}, {len(endpoint_prefix)} characters",
            fix="shorten the names of environment and deployment by "
            f"{len(endpoint_prefix) - _ENDPOINT_PREFIX_CHARACTERS}",
        )
    return _plan(environment, name, found, source=source)


def _plan(environment: Environment, name: str, found: Assessment, *, source: str) -> DeploymentPlan:
    serving, model = found.serving, found.model
    engine, version, instance, memory, needs = found.engine, found.version, found.instance, found.memory, found.compile
    account = image_account(engine=serving.engine, version=serving.engine_version, region=environment.region)
    if not (
        version and version.deployable and version.compiler and engine and instance and memory and needs and account
    ):
        raise SettingsError(
            source=source,
            key=f"deployments.{name}.engine_version",
            problem=f"{serving.engine} {serving.engine_version} can be planned, but no stack deploys it yet",
            fix=f"use one of: {', '.join(_deployable())}",
        )
    kind = family(instance.family)
    image = serving.image_uri or image_uri(engine=engine.name, version=version.version, region=environment.region)
    allowed = {
        other: fitting_degrees(model, serving, version, same)
        for other in instances_of(engine, version)
        if (same := find_instance(other)) and same.family == instance.family
    }
    return DeploymentPlan(
        environment=environment.name,
        region=environment.region,
        name=name,
        stack_id=f"{_STACK_PREFIXES[instance.family]}{_camel(name)}Stack",
        model=model,
        serving=serving,
        instance=instance,
        image_uri=image,
        image_account=account,
        dialect=version.dialect,
        inference_ami_version=version.inference_ami_versions.get(instance.family, kind.inference_ami_version),
        volume_size_gib=serving.volume_size_gib,
        container_environment=engine.container_environment(version.version, model, serving),
        facts=ArtifactFacts(
            engine=engine.name,
            engine_version=version.version,
            model_id=model.hub_id,
            model_revision=model.revision,
            instance_family=instance.family,
            tensor_parallel_degree=str(serving.tensor_parallel_degree),
            batch_size=str(serving.batch_size),
            sequence_length=str(serving.sequence_length),
            dtype=serving.dtype,
        ),
        memory=memory,
        maximum_sequence_length=maximum_sequence_length(model, replace(serving, batch_size=1), version, instance),
        allowed_tensor_parallel_degrees={t: degrees for t, degrees in allowed.items() if degrees},
        target_concurrency=serving.scaling.target_concurrency or serving.batch_size,
        usd_per_hour=found.usd_per_hour,
        compile=_compile_plan(
            environment,
            name,
            serving=serving,
            needs=needs,
            layout=version.compiler.artifact_layout,
            ami_parameter=version.compile_ami_parameters.get(instance.family, kind.compile_ami_parameter),
            image=image,
            instance=instance,
            properties=dict(found.properties or {}),
            source=source,
        ),
        features=version.features,
        cache_ttl_seconds=environment.deployments[name].cache.ttl_seconds,
        notes=found.notes,
    )


def _compile_plan(
    environment: Environment,
    name: str,
    *,
    serving: Serving,
    needs: CompileNeeds,
    layout: str,
    ami_parameter: str,
    image: str,
    instance: Instance,
    properties: Mapping[str, str],
    source: str,
) -> CompilePlan:
    try:
        hosts = compile_hosts(
            needs,
            tensor_parallel_degree=serving.tensor_parallel_degree,
            region=environment.region,
            preferred=environment.compile.instance_types,
        )
    except ValueError as error:
        raise SettingsError(
            source=source, key="compile.instance_types", problem=f"deployment {name}: {error}", fix="correct the list"
        ) from None
    return CompilePlan(
        hosts=tuple(
            CompileHostChoice(
                instance_type=host.name,
                devices=host.accelerators,
                tensor_parallel_degrees=tuple(host.tensor_parallel_degrees),
            )
            for host in hosts
        ),
        mirror_instance_type=mirror_host(instance.family, region=environment.region).name,
        accelerator="neuron" if instance.accelerator.kind == "neuron" else "nvidia",
        layout=layout,
        weights_source="hub" if environment.network.egress == "nat" else "s3",
        ami_parameter=ami_parameter,
        root_volume_gib=needs.root_volume_gib,
        min_free_gib=needs.disk_gib,
        min_memory_gib=needs.host_memory_bytes // GIB,
        image_uri=image,
        image_repository=image.split("/", 1)[1].rsplit(":", 1)[0],
        export_command=needs.template,
        properties=properties,
    )


def _deployable() -> list[str]:
    return [
        f"{engine.name} {version.version}"
        for engine in ENGINES.values()
        for version in engine.versions.values()
        if version.deployable
    ]
