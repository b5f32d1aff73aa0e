"""Documents of Systems Manager: parameters, placeholders, scripts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelzone.local.emulator.ssm_documents import BUILT_IN, DocumentRefused, render


def document(*lines: str, timeout: str = "60", **parameters: Any) -> str:
    step = {"action": "aws:runShellScript", "name": "Run", "inputs": {"timeoutSeconds": timeout, "runCommand": lines}}
    return json.dumps({"schemaVersion": "2.2", "parameters": parameters, "mainSteps": [step]})


def test_values_are_put_into_the_script() -> None:
    content = document(
        "echo {{Name}} {{ Name }}", "{{ other }} ${HOME}", timeout="{{ Seconds }}",
        Name={"type": "String"}, Seconds={"type": "Integer", "default": 7},
    )  # fmt: skip
    (script,) = render("d", content, {"Name": ["x"]})
    assert (script.text, script.timeout_s) == ("echo x x\n{{ other }} ${HOME}\n", 7)


def test_the_document_that_every_account_has() -> None:
    given = {"commands": ["a", "b {{ x }}"], "executionTimeout": ["5"]}
    (script,) = render("AWS-RunShellScript", BUILT_IN["AWS-RunShellScript"], given)
    assert (script.text, script.timeout_s) == ("a\nb {{ x }}\n", 5)


@pytest.mark.parametrize(
    ("rules", "given", "problem"),
    [
        ({"type": "String"}, {}, "Name is missing"),
        ({"type": "String"}, {"Name": ["a"], "X": ["b"]}, "does not support parameters: \\['X'\\]"),
        ({"type": "String", "allowedValues": ["a"]}, {"Name": ["b"]}, "invalid value: 'b'"),
        ({"type": "String", "allowedPattern": "^a+$"}, {"Name": ["b"]}, "does not match the allowed pattern"),
        ({"type": "String", "maxChars": 2}, {"Name": ["bbb"]}, "3 characters, allowed are 0 to 2"),
    ],
)
def test_what_the_document_does_not_allow(rules: dict[str, Any], given: dict[str, list[str]], problem: str) -> None:
    with pytest.raises(DocumentRefused, match=problem) as refused:
        render("d", document("echo {{ Name }}", Name=rules), given)
    assert refused.value.code == "InvalidParameters"


def test_a_step_that_is_no_script() -> None:
    content = {"mainSteps": [{"action": "aws:runPowerShellScript", "name": "x"}]}
    with pytest.raises(DocumentRefused, match="runs aws:runShellScript steps only"):
        render("d", content, {})
