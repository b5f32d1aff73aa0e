"""Garbage collection deletes what nothing uses, and whatever is unknown keeps it from deleting anything."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.compile_world import BUCKET, NOW, OLD, Run, World, facts, order

from modelzone.artifacts.gc import decide, remove, storage_price
from modelzone.artifacts.registry import Parameters, read_parameters
from modelzone.artifacts.store import ArtifactPlace, delete_objects, scan
from modelzone.artifacts.uses import Use, of_executions, of_models, of_orders, of_registry, used_by
from modelzone.compiling.executions import Machine
from modelzone.errors import ModelzoneError

WEEK = timedelta(days=7)


@pytest.fixture
def world() -> World:
    return World()


def uses_of(world: World, versions: int = 2) -> list[Use]:
    parameters = read_parameters(world("ssm"), versions=versions)
    running = of_executions(
        parameters, cloudformation=world("cloudformation"), machines=lambda arn: Machine(world("stepfunctions"), arn)
    )
    return [*of_registry(parameters), *of_orders(parameters), *of_models(world("sagemaker")), *running]


def going(world: World, versions: int = 2) -> set[str]:
    decisions = decide(scan(world("s3"), BUCKET), uses_of(world, versions), now=NOW, min_age=WEEK)
    return {decision.place.key for decision in decisions if decision.delete}


def why(world: World, key: str) -> str:
    decisions = decide(scan(world("s3"), BUCKET), uses_of(world), now=NOW, min_age=WEEK)
    return "; ".join(next(decision for decision in decisions if decision.place.key == key).reasons)


def test_nobody_uses_it(world: World) -> None:
    key = world.artifact(batch_size="2")
    assert going(world) == {key}
    assert why(world, key) == "nothing uses it"


def test_what_an_environment_plans_stays(world: World) -> None:
    key = world.artifact()
    assert going(world) == set()
    assert why(world, key) == "plan of dev/mixtral"


def test_deployments_of_every_environment_count_with_their_last_versions(world: World) -> None:
    keys = [world.artifact(batch_size=size) for size in ("2", "4", "8")]
    world.deploy("prod", "big", *(world.uri(batch_size=size) for size in ("2", "4", "8")))
    assert going(world) == {keys[0]}
    assert going(world, versions=3) == set()
    assert going(world, versions=1) == set(keys[:2])
    assert why(world, keys[1]) == "retained version 2 of prod/big"
    assert why(world, keys[2]) == "deployment prod/big"


@pytest.mark.parametrize(
    "model",
    [
        {"PrimaryContainer": {"ModelDataSource": {"S3DataSource": {"S3Uri": "URI"}}}},
        {"PrimaryContainer": {"ModelDataUrl": "URImodel.tar.gz"}},
        {"Containers": [{"AdditionalModelDataSources": [{"S3DataSource": {"S3Uri": "URI"}}]}]},
        {"PrimaryContainer": {"Environment": {"HF_MODEL_ID": "URI"}}},
    ],
)
def test_a_model_of_the_account_keeps_its_artifact(world: World, model: dict[str, object]) -> None:
    key = world.artifact(batch_size="2")
    world.models["theirs"] = json.loads(json.dumps(model).replace("URI", world.uri(batch_size="2")))
    assert going(world) == set()
    assert why(world, key) == "model theirs"


def test_a_model_that_loads_the_whole_prefix_keeps_all_of_it(world: World) -> None:
    world.artifact(batch_size="2")
    world.models["theirs"] = {"PrimaryContainer": {"ModelDataUrl": f"s3://{BUCKET}/compiled"}}
    assert going(world) == set()


def test_a_compilation_that_runs_keeps_its_prefix(world: World) -> None:
    key = world.artifact(batch_size="2", manifest=False)
    world.runs.append(Run(f"mixtral-{key}-20261121110000"))
    assert going(world) == set()
    world.runs[0].status = "FAILED"
    assert going(world) == {key}


def test_an_execution_with_a_name_of_its_own_is_known_by_its_input(world: World) -> None:
    world.artifact(batch_size="2")
    world.runs.append(Run("by-hand", given={"deployment": "mixtral", "facts": {"batch_size": 2}}))
    assert going(world) == set()


def test_an_execution_that_nobody_understands_refuses_everything(world: World) -> None:
    world.runs.append(Run("by-hand", given={"deployment": "else"}))
    with pytest.raises(ModelzoneError, match="execution by-hand runs, and nobody knows for which artifact"):
        going(world)


def test_young_and_incomplete_artifacts(world: World) -> None:
    young = world.artifact(batch_size="2", changed=NOW - timedelta(days=2))
    broken = world.artifact(batch_size="4", manifest=False)
    assert going(world) == {broken}
    assert why(world, young) == "younger than 7 days"
    assert why(world, broken) == "nothing uses it; incomplete: it has no manifest: its upload was not finished"


@pytest.mark.parametrize(
    "operation",
    [
        "GetParametersByPath",
        "GetParameterHistory",
        "ListModels",
        "DescribeModel",
        "DescribeStacks",
        "ListExecutions",
        "ListObjectsV2",
        "GetObject",
    ],
)
def test_a_source_that_cannot_be_read_refuses_everything(world: World, operation: str) -> None:
    world.artifact(batch_size="2")
    world.deploy("dev", "mixtral", world.uri())
    world.models["theirs"] = {}
    world.runs.append(Run("mixtral-0123456789abcdef0123-20261121110000"))
    world.broken[operation] = "AccessDeniedException"
    with pytest.raises(ModelzoneError, match=f"not allowed to call {operation}"):
        going(world)


@pytest.mark.parametrize("name", ["deployments/mixtral", "compile/orders/mixtral"])
def test_a_parameter_that_cannot_be_understood_refuses_everything(world: World, name: str) -> None:
    world.parameters[f"/modelzone/dev/{name}"] = ["not JSON"]
    with pytest.raises(ModelzoneError, match=f"parameter /modelzone/dev/{name} is not a JSON object"):
        going(world)


def test_an_old_order_names_the_command(world: World) -> None:
    world.parameters["/modelzone/dev/compile/orders/mixtral"] = ["{}"]
    with pytest.raises(ModelzoneError, match="cdk deploy CompileStack -c environment=dev"):
        going(world)


KEYS = st.text("0123456789abcdef", min_size=20, max_size=20)
PREFIXES = st.builds("compiled/{}/{}/".format, st.sampled_from(["a", "b--c"]), KEYS)
PLACES = st.builds(
    ArtifactPlace,
    bucket=st.just(BUCKET),
    prefix=PREFIXES,
    sizes=st.dictionaries(st.sampled_from(["config.json", "x/y"]), st.integers(0, 9), min_size=1),
    changed=st.integers(0, 60).map(lambda days: NOW - timedelta(days=days)),
)


@given(st.data(), st.lists(PLACES, max_size=8, unique_by=lambda place: place.prefix), st.integers(0, 40))
def test_nothing_that_is_used_or_young_is_ever_deleted(
    data: st.DataObject, places: list[ArtifactPlace], days: int
) -> None:
    known = st.sampled_from(places) if places else st.nothing()
    cut = st.integers(len(f"s3://{BUCKET}/"), 80)
    kinds = st.sampled_from(["deployment", "retained version", "model", "running compilation", "plan"])
    uses = data.draw(
        st.lists(
            st.one_of(
                st.builds(lambda kind, place: Use(kind=kind, who="x", key=place.key), kinds, known),
                st.builds(lambda kind, place, at: Use(kind=kind, who="x", uri=place.uri[:at]), kinds, known, cut),
                st.builds(lambda kind, place: Use(kind=kind, who="x", uri=f"{place.uri}model.tar"), kinds, known),
                st.builds(lambda kind, key: Use(kind=kind, who="x", key=key), kinds, KEYS),
            ),
            max_size=6,
        )
        if places
        else st.just([])
    )
    decisions = decide(places, uses, now=NOW, min_age=timedelta(days=days))
    assert [decision.place for decision in decisions] == places
    for decision in decisions:
        used = used_by(decision.place, uses)
        young = NOW - decision.place.changed < timedelta(days=days)
        assert decision.delete == (not used and not young)
        assert decision.reasons
        for use in uses:
            if use.key == decision.place.key or (use.uri and use.uri.startswith(decision.place.uri)):
                assert not decision.delete


@given(KEYS, KEYS)
def test_a_use_of_one_artifact_is_none_of_its_neighbour(first: str, second: str) -> None:
    place = ArtifactPlace(bucket=BUCKET, prefix=f"compiled/a/{first}/", sizes={"x": 1}, changed=OLD)
    other = Use(kind="deployment", who="x", uri=f"s3://{BUCKET}/compiled/a/{second}/")
    assert other.concerns(place) == (first == second)


def parameters_of(world: World) -> Parameters:
    return read_parameters(world("ssm"), versions=2)


def remove_one(world: World, key: str, uses: list[Use] | None = None) -> object:
    (place,) = [place for place in scan(world("s3"), BUCKET) if place.key == key]
    return remove(
        place,
        parameters_of(world),
        s3=world("s3"),
        ssm=world("ssm"),
        environment="dev",
        uses=lambda: uses or [],
    )


def test_the_manifest_goes_first_and_everything_of_the_artifact_with_it(world: World) -> None:
    key = world.artifact(batch_size="2")
    kept = world.artifact(batch_size="4")
    for name in (f"cache/{key}/graph", f"cache/{kept}/graph", "weights/a/b/manifest.json"):
        world.put(name, b"x")
    for owner in ("dev", "other"):
        world.parameters[f"/modelzone/{owner}/artifacts/{key}"] = [json.dumps({"artifact": f"s3://{owner}/x"})]
        world.parameters[f"/modelzone/{owner}/compile/progress/{key}"] = ["{}"]
    world.parameters[f"/modelzone/shared/artifacts/{key}"] = [json.dumps({"artifact": world.uri(batch_size="2")})]
    remove_one(world, key)
    deleted = [[row["Key"] for row in asked["Delete"]["Objects"]] for asked in world.asked_for("DeleteObjects")]
    assert [name.rpartition("/")[2] for name in deleted[0]] == ["manifest.json"]
    assert deleted[-1] == [f"cache/{key}/graph"]
    left = set(world.objects)
    assert not [name for name in left if key in name]
    assert {f"cache/{kept}/graph", "weights/a/b/manifest.json"} < left
    assert [name for name in world.parameters if key in name] == [
        f"/modelzone/other/artifacts/{key}",
        f"/modelzone/other/compile/progress/{key}",
    ]


def test_environments_that_share_the_bucket_lose_their_progress_too(world: World) -> None:
    key = world.artifact(batch_size="2")
    world.parameters["/modelzone/prod/compile/orders/mixtral"] = [json.dumps(order(environment="prod"))]
    world.parameters[f"/modelzone/prod/compile/progress/{key}"] = ["{}"]
    remove_one(world, key)
    assert not [name for name in world.parameters if key in name]


def test_what_is_used_meanwhile_is_left(world: World) -> None:
    key = world.artifact(batch_size="2")
    before = dict(world.objects)
    result = remove_one(world, key, [Use(kind="running compilation", who="new", key=key)])
    assert getattr(result, "stopped", "") == "it is used since: running compilation new"
    assert world.objects == before


def test_an_object_elsewhere_is_never_deleted(world: World) -> None:
    with pytest.raises(AssertionError, match="weights/x"):
        delete_objects(
            world("s3"), BUCKET, ["compiled/a", "weights/x"], allowed=lambda key: key.startswith("compiled/")
        )
    assert world.asked == []


def test_objects_that_s3_does_not_delete_are_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"Errors": [{"Key": "compiled/a", "Code": "AccessDenied", "Message": "no"}]}
    monkeypatch.setattr(World, "s3_delete_objects", lambda *_: answer)
    with pytest.raises(ModelzoneError, match="s3://models/compiled/a could not be deleted: AccessDenied: no"):
        delete_objects(world("s3"), BUCKET, ["compiled/a"])


def test_thousands_go_in_batches(world: World) -> None:
    assert delete_objects(world("s3"), BUCKET, [f"compiled/{number}" for number in range(2500)]) == 2500
    assert [len(asked["Delete"]["Objects"]) for asked in world.asked_for("DeleteObjects")] == [1000, 1000, 500]


def test_the_price_says_what_it_assumes() -> None:
    price, assumed = storage_price(100 * 10**9)
    assert price == pytest.approx(2.3)
    assert assumed.startswith("assumed: S3 Standard")


def test_the_facts_of_the_tests_are_those_of_the_plan() -> None:
    assert facts()["engine"] == "tgi-neuronx"
