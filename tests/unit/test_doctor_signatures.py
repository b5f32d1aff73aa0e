"""Every signature recognises its example, ignores its look-alike, and agrees with the compile job's words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from compile_job import signatures as compile_job
from modelzone.doctor.log import diagnose, diagnose_file
from modelzone.doctor.prefilter import looked_for
from modelzone.doctor.signatures import Signature, pattern, signatures
from modelzone.settings.model_profile import Serving
from tools import signatures as signatures_tool

ROOT = Path(__file__).resolve().parents[2]
LOGS = Path(__file__).parent / "doctor_logs"
EXAMPLES: dict[str, dict[str, str]] = yaml.safe_load((LOGS / "examples.yaml").read_text(encoding="utf-8"))
SAMPLES = {"number": "4711", "word": "some/thing-1.2", "phrase": "a phrase of words"}
BY_ID = {signature.id: signature for signature in signatures()}
TEXTS = [(signature, text) for signature in signatures() for text in signature.any]


def found(*lines: str) -> list[str]:
    return [finding.id for finding in diagnose(lines).findings]


def written_out(text: str) -> str:
    return re.sub(r"\{\w+:(\w+)\}", lambda part: SAMPLES[part[1]], text).replace("…", "anything else")


def test_every_signature_has_an_example_and_a_look_alike() -> None:
    assert set(EXAMPLES) == set(BY_ID)
    assert len(BY_ID) == len(signatures())


@pytest.mark.parametrize("name", sorted(BY_ID))
def test_it_recognises_its_example_and_ignores_its_look_alike(name: str) -> None:
    assert name in found(EXAMPLES[name]["example"])
    assert name not in found(EXAMPLES[name]["look_alike"])


@pytest.mark.parametrize(("signature", "text"), TEXTS, ids=[text for _, text in TEXTS])
def test_every_text_is_found_wherever_it_stands(signature: Signature, text: str) -> None:
    line = written_out(text)
    assert signature.id in found(line)
    assert signature.id in found("before", f"2026-11-02 ERROR [x.py:1] ({line}) and more", "after")
    assert signature.id in found('{"message": ' + yaml.safe_dump(line, default_style='"', width=9999).strip() + "}")


@pytest.mark.parametrize(("signature", "text"), TEXTS, ids=[text for _, text in TEXTS])
def test_what_a_text_is_looked_for_by_is_plain_ascii_of_some_length(signature: Signature, text: str) -> None:
    by = looked_for(signature, pattern(text))
    assert re.fullmatch(r"[ !#-&(-\[\]-~]{4,}", by.keyword), "neither quotes nor backslashes: JSON escapes them"
    assert by.word.decode("ascii") in text


@pytest.mark.parametrize("signature", [s for s in signatures() if s.unless], ids=lambda signature: signature.id)
def test_words_that_make_it_something_else_are_heeded_on_their_line_only(signature: Signature) -> None:
    line = written_out(signature.any[0])
    for text in signature.unless:
        assert found(f"{text} {line}") == []
        assert found(text, line) == [signature.id]


def test_a_gap_may_be_nothing() -> None:
    assert pattern("one … two").expression.search("onetwo")
    assert pattern("one … two").expression.search("one two")
    assert pattern("one … two").expression.search("one, more\nand two")
    assert not pattern("one … two").expression.search("two one")


@pytest.mark.parametrize("path", sorted(LOGS.glob("healthy_*.log")), ids=lambda path: path.stem)
def test_healthy_logs_have_no_findings(path: Path) -> None:
    diagnosis = diagnose_file(path)
    assert diagnosis.findings == ()
    assert diagnosis.lines == len(path.read_text(encoding="utf-8").splitlines())
    assert diagnosis.next_steps


def test_the_compile_job_s_list_is_made_from_this_one() -> None:
    assert signatures_tool.FILE.read_text(encoding="utf-8") == signatures_tool.rendered(), "python -m tools.signatures"


@pytest.mark.parametrize("name", sorted(BY_ID))
def test_the_compile_job_and_the_doctor_say_the_same(name: str) -> None:
    signature = BY_ID[name]
    known = [entry["id"] for entry in json.loads(signatures_tool.FILE.read_text(encoding="utf-8"))["signatures"]]
    lines = EXAMPLES[name]["example"].splitlines()
    if name not in known:
        return
    best = next(found_id for found_id in found(*lines) if found_id in known)
    words = BY_ID[best].short or BY_ID[best].remedy.rstrip(".")
    assert compile_job.remedy(lines) == f"{words} (doctor: {best})"
    assert signature.id not in compile_job.remedy([EXAMPLES[name]["look_alike"]])


@pytest.mark.parametrize("signature", signatures(), ids=lambda signature: signature.id)
def test_references_in_the_data_hold(signature: Signature) -> None:
    assert set(signature.explained_by) <= set(BY_ID) - {signature.id}
    assert set(signature.settings) <= set(Serving.__struct_fields__)
    derived = {"room", "wanted"}
    values = {name for text in signature.any for name in re.findall(r"\{(\w+):\w+\}", text)}
    assert set(re.findall(r"\{(\w+)\}", signature.remedy_with or "")) <= values | derived
    assert "{" not in signature.remedy


@pytest.mark.parametrize(
    "signature", [s for s in signatures() if s.source.startswith("modelzone, ")], ids=lambda s: s.id
)
def test_the_projects_own_texts_stand_in_its_sources(signature: Signature) -> None:
    paths = [word.rstrip(",") for word in signature.source.split() if word.rstrip(",").endswith(".py")]
    source = "".join((ROOT / path).read_text(encoding="utf-8") for path in paths)
    # Long messages are several literals in a row.
    joined = re.sub(r'"\s*(?:\+\s*)?f?"', "", source)
    for text in signature.any:
        for piece in pattern(text).pieces:
            assert piece.removeprefix("manifest.json") in joined


def test_what_cloudformation_repeats_of_the_parameters_is_theirs() -> None:
    source = (ROOT / "constructs/zone_constructs/deployment_parameters.py").read_text(encoding="utf-8")
    for words in ("must be empty (as planned: ", " TensorParallelDegree must be "):
        assert words in source
        assert any(words.strip() in text for text in BY_ID["parameter-constraint"].any)
