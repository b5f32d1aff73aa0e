"""Template properties brought to the types of the API."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.model import ShapeResolver

from modelzone.local.emulator.bridge import conform, run_to_completion

SHAPES = {
    "Request": {
        "type": "structure",
        "members": {
            "Name": {"shape": "Text"},
            "Count": {"shape": "Number"},
            "Rate": {"shape": "Fraction"},
            "Enabled": {"shape": "Switch"},
            "Names": {"shape": "List"},
            "Variables": {"shape": "Map"},
            "Inner": {"shape": "Request"},
        },
    },
    "Text": {"type": "string"},
    "Number": {"type": "integer"},
    "Fraction": {"type": "double"},
    "Switch": {"type": "boolean"},
    "List": {"type": "list", "member": {"shape": "Text"}},
    "Map": {"type": "map", "key": {"shape": "Text"}, "value": {"shape": "Text"}},
}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"Name": 5}, {"Name": "5"}),
        ({"Name": {"a": 1}}, {"Name": '{"a": 1}'}),
        ({"Name": True}, {"Name": "true"}),
        ({"Count": "3"}, {"Count": 3}),
        ({"Rate": "0.5"}, {"Rate": 0.5}),
        ({"Enabled": "true"}, {"Enabled": True}),
        ({"Enabled": "false"}, {"Enabled": False}),
        ({"Enabled": True}, {"Enabled": True}),
        ({"Names": [1, "b"]}, {"Names": ["1", "b"]}),
        ({"Variables": {"HF_MODEL_ID": "m", "MAX": 4}}, {"Variables": {"HF_MODEL_ID": "m", "MAX": "4"}}),
        ({"name": "n"}, {"Name": "n"}),
        ({"UpdateMethod": "x", "Count": None}, {}),
        ({"Inner": {"Count": "1", "Inner": {"Count": "2"}}}, {"Inner": {"Count": 1, "Inner": {"Count": 2}}}),
    ],
)
def test_properties_become_what_the_api_declares(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert conform(given, ShapeResolver(SHAPES).get_shape_by_name("Request")) == wanted


async def test_a_handler_runs_to_completion_from_the_event_loops_own_thread() -> None:
    async def answer() -> str:
        return "done"

    assert run_to_completion(answer) == "done"


async def test_a_handlers_error_reaches_the_caller() -> None:
    async def fail() -> None:
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        run_to_completion(fail)
