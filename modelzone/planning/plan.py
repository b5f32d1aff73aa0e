"""Plans: what a deployment and an environment come to, checked once, computed nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modelzone.artifacts import ArtifactFacts, artifact_prefix
from modelzone.engines import ENGINES, image_account, image_uri, known_image
from modelzone.errors import ModelzoneError, SettingsError
from modelzone.hardware import Instance, family, find_instance, instance_types
from modelzone.planning.memory import MemoryPlan, plan_memory
from modelzone.settings import (
    Environment,
    Model,
    ModelProfile,
    Serving,
    apply_overrides,
    load_environment,
    load_profile,
    merge_serving,
)

__all__ = ["CompilePlan", "DeploymentPlan", "EnvironmentPlan", "plan_deployment", "plan_environment"]


@dataclass(frozen=True, kw_only=True)
class CompilePlan:
    """What the compile host needs.

    Attributes
    ----------
    instance_type
        EC2's name of the type that exports the model.
    devices
        Neuron devices (chips) that must be seen on it.
    ami_parameter
        Public SSM parameter that holds the AMI.
    root_volume_gib, min_free_gib
        Size of its disk, and what must be free when the job starts: weights, their export and the container image.
    image_repository
        Name of the image's repository in the engine's registry.
    """

    instance_type: str
    devices: int
    ami_parameter: str
    root_volume_gib: int
    min_free_gib: int
    image_uri: str
    image_repository: str
    export_command: tuple[str, ...]


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
        On-demand price of one instance.
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
    usd_per_hour: float
    compile: CompilePlan
    can_fetch_weights: bool

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
        if not self.can_fetch_weights:
            return (
                "This environment has no way to the model hub (egress: none): compile in one that has, and copy the "
                "artifact, its manifest last (docs/deploying.md)."
            )
        return (
            f"Compile it: run the command in the output Start{self.camel_name} of stack "
            f"modelzone-{self.environment}-compile, then the one in its output Compile{self.camel_name}. They compile "
            "what is planned: for other values edit the environment file and deploy CompileStack first."
        )

    @property
    def artifact_prefix(self) -> str:
        """Where the artifact lies in the model bucket, with the values known at synth."""
        return artifact_prefix(self.facts.as_dict())


@dataclass(frozen=True, kw_only=True)
class EnvironmentPlan:
    """An environment with the plans of all its deployments."""

    environment: Environment
    deployments: tuple[DeploymentPlan, ...]

    @property
    def registry_path(self) -> str:
        """SSM path below which each deployment announces itself to the gateway."""
        return f"/modelzone/{self.environment.name}/deployments"


_STACK_PREFIXES = {"inf2": "Inferentia"}
_SEQUENCE_STEP = 64
_OTHER_PARTITIONS = ("cn-", "us-gov-", "us-iso", "eu-iso", "eusc-")
# SageMaker's limit is 63 characters; the stack adds a hyphen and eight digits.
_ENDPOINT_PREFIX_CHARACTERS = 54
# The root volume holds the weights, the export (another copy in shards) and the image with its layers.
_IMAGE_GIB = 40
# The AMI's own snapshot is reported as 100 GB, and the file system keeps some blocks for itself.
_SYSTEM_GIB = 120
_COMPILE_DISK_FACTOR = 3


def _endpoint_prefix(environment: str, deployment: str) -> str:
    return f"modelzone-{environment}-{deployment}"


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("-"))


def _stack_id(name: str, instance: Instance) -> str:
    return f"{_STACK_PREFIXES[instance.family]}{_camel(name)}Stack"


def _fits(profile: ModelProfile, instance: Instance, degree: int, batch_size: int, sequence_length: int) -> MemoryPlan:
    return plan_memory(
        profile.model.architecture,
        instance=instance,
        tensor_parallel_degree=degree,
        batch_size=batch_size,
        sequence_length=sequence_length,
    )


def _maximum_sequence_length(profile: ModelProfile, instance: Instance, degree: int) -> int:
    """Longest multiple of 64 that fits at batch size 1 and that the model was made for; 0 when nothing does."""
    empty = _fits(profile, instance, degree, 1, 0)
    one = _fits(profile, instance, degree, 1, _SEQUENCE_STEP)
    steps = max(0, (empty.available - empty.needed) // one.kv_cache)
    return min(steps * _SEQUENCE_STEP, profile.model.architecture.context_length)


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
    serving = merge_serving(profile, environment.deployments[name], source=f"{source}: deployments.{name}")

    def refuse(key: str, value: object, problem: str, fix: str) -> SettingsError:
        return SettingsError(source=source, key=f"deployments.{name}.{key}", problem=f"{value!r} {problem}", fix=fix)

    engine = ENGINES.get(serving.engine)
    if engine is None:
        raise refuse("engine", serving.engine, "is not an engine", f"use one of: {', '.join(ENGINES)}")
    version = engine.versions.get(serving.engine_version)
    if version is None:
        raise refuse(
            "engine_version",
            serving.engine_version,
            f"is not a supported version of {engine.name}",
            f"use one of: {', '.join(engine.versions)}",
        )
    if profile.model.architecture.type not in version.model_types:
        raise refuse(
            "engine_version",
            serving.engine_version,
            f"cannot serve models of type {profile.model.architecture.type}",
            f"it serves: {', '.join(sorted(version.model_types))}",
        )
    instance = find_instance(serving.instance_type)
    types = [t for t in instance_types() if (i := find_instance(t)) and i.family in engine.families]
    if instance is None or not serving.instance_type.startswith("ml.") or instance.family not in engine.families:
        raise refuse(
            "instance_type",
            serving.instance_type,
            f"is not an instance type that {engine.name} runs on",
            f"use one of: {', '.join('ml.' + t for t in types)}",
        )
    degree = serving.tensor_parallel_degree
    if degree not in instance.tensor_parallel_degrees:
        raise refuse(
            "tensor_parallel_degree",
            degree,
            f"is not possible on {serving.instance_type}, which has {instance.cores} NeuronCores",
            f"use one of: {', '.join(map(str, instance.tensor_parallel_degrees))}",
        )
    context = profile.model.architecture.context_length
    if serving.sequence_length > context:
        raise refuse(
            "sequence_length", serving.sequence_length, "is longer than the model's context", f"use at most {context}"
        )
    memory = _fits(profile, instance, degree, serving.batch_size, serving.sequence_length)
    allowed = {
        f"ml.{t}": tuple(
            d
            for d in other.tensor_parallel_degrees
            if _fits(profile, other, d, serving.batch_size, serving.sequence_length).fits
        )
        for t in types
        if (other := find_instance(t)) and other.family == instance.family
    }
    if not memory.fits:
        fitting = [f"{t} with degree {', '.join(map(str, d))}" for t, d in allowed.items() if d]
        raise refuse(
            "tensor_parallel_degree",
            degree,
            f"does not fit on {serving.instance_type}: {memory.explain()}",
            f"use {'; or '.join(fitting)}" if fitting else "lower batch_size or sequence_length",
        )
    kind = family(instance.family)
    if serving.volume_size_gib is not None and not kind.takes_volume_size:
        raise refuse(
            "volume_size_gib",
            serving.volume_size_gib,
            f"cannot be set: SageMaker refuses a volume size for {kind.name}",
            "leave it out",
        )
    prefix = _endpoint_prefix(environment.name, name)
    if len(prefix) > _ENDPOINT_PREFIX_CHARACTERS:
        raise SettingsError(
            source=source,
            key=f"deployments.{name}",
            problem=f"the endpoint's name would begin with {prefix!r}, {len(prefix)} characters",
            fix=f"shorten the names of environment and deployment by {len(prefix) - _ENDPOINT_PREFIX_CHARACTERS}",
        )
    if environment.region.startswith(_OTHER_PARTITIONS):
        raise SettingsError(
            source=source,
            key="region",
            problem=f"{environment.region!r} is not in AWS's commercial partition",
            fix="choose a commercial region: others have another account for the Lambda Web Adapter, or none",
        )
    try:
        account = image_account(engine=engine.name, region=environment.region)
        own_image = image_uri(engine=engine.name, version=version.version, region=environment.region)
    except ModelzoneError as error:
        raise SettingsError(
            source=source, key="region", problem=str(error), fix="choose one of these regions"
        ) from None
    if serving.image_uri is not None and not known_image(serving.image_uri):
        raise refuse(
            "image_uri",
            serving.image_uri,
            "is not in the table of published images",
            "use an image of the table modelzone/engines/data/images.json, or pass any other as the stack's "
            "parameter ImageUri",
        )
    min_free_gib = int(memory.weights * degree / 1024**3 * _COMPILE_DISK_FACTOR) + _IMAGE_GIB
    return DeploymentPlan(
        environment=environment.name,
        region=environment.region,
        name=name,
        stack_id=_stack_id(name, instance),
        model=profile.model,
        serving=serving,
        instance=instance,
        image_uri=serving.image_uri or own_image,
        image_account=account,
        dialect=version.dialect,
        inference_ami_version=kind.inference_ami_version,
        volume_size_gib=serving.volume_size_gib,
        container_environment=engine.container_environment(serving),
        facts=ArtifactFacts(
            engine=engine.name,
            engine_version=version.version,
            model_id=profile.model.hub_id,
            model_revision=profile.model.revision,
            instance_family=instance.family,
            tensor_parallel_degree=str(degree),
            batch_size=str(serving.batch_size),
            sequence_length=str(serving.sequence_length),
            dtype=serving.dtype,
        ),
        memory=memory,
        maximum_sequence_length=_maximum_sequence_length(profile, instance, degree),
        allowed_tensor_parallel_degrees={t: d for t, d in allowed.items() if d},
        target_concurrency=serving.scaling.target_concurrency or serving.batch_size,
        usd_per_hour=instance.ml_usd_per_hour,
        compile=CompilePlan(
            instance_type=instance.name,
            devices=instance.accelerators,
            ami_parameter=kind.compile_ami_parameter,
            root_volume_gib=min_free_gib + _SYSTEM_GIB,
            min_free_gib=min_free_gib,
            image_uri=own_image,
            image_repository=own_image.split("/", 1)[1].rsplit(":", 1)[0],
            export_command=engine.export_command(serving),
        ),
        can_fetch_weights=environment.network.egress == "nat",
    )


def plan_environment(
    root: Path, name: str, *, overrides: Mapping[str, Mapping[str, str]] | None = None
) -> EnvironmentPlan:
    """Read an environment with its profiles below the project's root folder and plan every deployment."""
    overrides = overrides or {}
    environment = apply_overrides(load_environment(root, name), overrides)
    source = str(root / "environments" / f"{name}.yaml")

    def source_of(deployment: str) -> str:
        given = [
            f"-c deployment.{deployment}.{field}={value}" for field, value in overrides.get(deployment, {}).items()
        ]
        return " ".join([source, *given])

    plans = tuple(
        plan_deployment(
            environment,
            deployment,
            load_profile(root, settings.profile, source=source_of(deployment), key=f"deployments.{deployment}.profile"),
            source=source_of(deployment),
        )
        for deployment, settings in environment.deployments.items()
    )
    ids = [plan.stack_id for plan in plans]
    for stack_id in ids:
        if ids.count(stack_id) > 1:
            same = [plan.name for plan in plans if plan.stack_id == stack_id]
            raise SettingsError(
                source=source,
                key="deployments",
                problem=f"{' and '.join(same)} would both become {stack_id}",
                fix="rename one of them",
            )
    return EnvironmentPlan(environment=environment, deployments=plans)
