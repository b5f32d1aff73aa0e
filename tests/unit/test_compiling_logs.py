"""The job's lines, in their order, each once; its events in words."""

from __future__ import annotations

import json

import pytest
from unit.compile_world import NOW, Run, World

from modelzone.compiling.logs import JobLog, LogLine, command_ids, readable
from modelzone.errors import ModelzoneError

COMMAND = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def world() -> World:
    return World()


def test_commands_are_found_in_the_outputs_of_the_states() -> None:
    run = (
        Run("x").enter("Run", 0).leave("Run", {"command_id": "a", "host": {}}).leave("X", {"x": [{"command_id": "b"}]})
    )
    run.leave("Run", {"state": {"command_id": "a"}}).leave("Run", {"command_id": ""})
    run.events[-1]["stateExitedEventDetails"]["output"] = "command_id, and no JSON"
    assert command_ids(run.events) == ["a", "b"]


def test_both_streams_in_the_order_of_time_and_each_line_once(world: World) -> None:
    world.streams[f"{COMMAND}/i-1/aws-runShellScript/stdout"] = [(1000, "one\ntwo"), (3000, "four"), (4000, "five")]
    world.streams[f"{COMMAND}/i-1/aws-runShellScript/stderr"] = [(2000, "three")]
    world.streams["other/i-1/aws-runShellScript/stdout"] = [(1, "not this")]
    log = JobLog(world("logs"), "group")
    lines = log.new_lines([COMMAND])
    assert [line.text for line in lines] == ["one", "two", "three", "four", "five"]
    assert lines[2].stream == "stderr"
    assert log.new_lines([COMMAND]) == []
    world.streams[f"{COMMAND}/i-1/aws-runShellScript/stdout"].append((5000, "six"))
    assert [line.text for line in log.new_lines([COMMAND])] == ["six"]


def test_a_group_that_is_not_there_yet_and_one_that_may_not_be_read(world: World) -> None:
    world.broken["DescribeLogStreams"] = "ResourceNotFoundException"
    assert JobLog(world("logs"), "group").new_lines([COMMAND]) == []
    world.broken["DescribeLogStreams"] = "AccessDeniedException"
    with pytest.raises(ModelzoneError, match="reading log group group: not allowed"):
        JobLog(world("logs"), "group").new_lines([COMMAND])


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ({"event": "start", "step": "export"}, "export: started"),
        (
            {"event": "end", "step": "export", "seconds": 2221.4, "output": "/x"},
            "export: done, after 37 min  output=/x",
        ),
        ({"event": "failed", "step": "export", "seconds": 3}, "export: FAILED, after 3 s"),
        (
            {
                "event": "progress",
                "step": "weights",
                "percent": 41.2,
                "bytes": 1024**3,
                "total_bytes": 2 * 1024**3,
                "rate": 1024**2,
                "seconds_left": 600,
            },
            "weights: going on, 41%, 1.0 GiB of 2.0 GiB, 1.0 MiB/s, 10 min left",
        ),
        ({"event": "done", "already": False, "artifact": "s3://a/"}, "done  already=false artifact=s3://a/"),
    ],
)
def test_events_in_words(event: dict[str, object], says: str) -> None:
    line = LogLine(when=NOW, stream="stdout", text=json.dumps({"time": "2026-11-21T12:34:56+00:00", **event}))
    assert readable(line) == f"12:34:56  {says}"


@pytest.mark.parametrize("text", ["plain", "{broken", "[1]", '{"no": "event"}', ""])
def test_other_lines_stay_as_they_are(text: str) -> None:
    assert readable(LogLine(when=NOW, stream="stderr", text=text)) == f"12:00:00  {text}"


def test_escape_sequences_do_not_reach_the_terminal() -> None:
    assert readable(LogLine(when=NOW, stream="stderr", text="\x1b[31mred\x1b[0m\x07")) == "12:00:00  red"
    event = json.dumps({"event": "\x1b[31mred"})
    assert "\x1b" not in readable(LogLine(when=NOW, stream="stdout", text=event))
