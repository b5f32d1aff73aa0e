"""What a person sees of the CDK CLI's output."""

from __future__ import annotations

import io

from modelzone.local.progress import Progress

OUTPUT = """\
[0%] start: Publishing NetworkStack Template
[100%] success: Published NetworkStack Template
m-x: start: Publishing X/Code (current_account-us-east-1-268cc81e)
m-x: success: Built m-x Template
modelzone-dev-network | 0/3 | 9:59:01 AM | CREATE_IN_PROGRESS  | AWS::EC2::VPC | NetworkStack/Network/Vpc (Vpc1)
modelzone-dev-network | 1/3 | 9:59:01 AM | CREATE_COMPLETE     | AWS::EC2::VPC | NetworkStack/Network/Vpc (Vpc1)

 ✅  NetworkStack (modelzone-dev-network)

✨  Deployment time: 0.43s

Outputs:
NetworkStack.VpcId = vpc-1
Stack ARN:
arn:aws:cloudformation:us-east-1:000000000000:stack/x

✨  Total time: 8.79s
"""
FAILURE = """\
m-x |  2 | 9:59:01 AM | CREATE_FAILED   | Custom::CompiledArtifact | X/Artifact (A) No artifact at s3://b/
run the compile job first
m-x |  2 | 9:59:01 AM | ROLLBACK_IN_PROGRESS | AWS::CloudFormation::Stack | m-x

 ❌  X (m-x) failed: it rolled back
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(text: str, output: io.StringIO) -> str:
    progress = Progress(output)
    for line in text.splitlines(keepends=True):
        progress.feed(line)
    progress.close()
    return output.getvalue()


def test_stacks_and_times_are_kept() -> None:
    assert shown(OUTPUT, io.StringIO()) == "  ✅  NetworkStack (modelzone-dev-network)\n  ✨  Total time: 8.79s\n"


def test_a_failure_is_kept_with_its_whole_reason() -> None:
    text = shown(FAILURE, io.StringIO())
    assert "No artifact at s3://b/\n  run the compile job first\n" in text
    assert "ROLLBACK_IN_PROGRESS" in text
    assert "it rolled back" in text


def test_a_message_that_nobody_expected_is_kept() -> None:
    routine = "Outputs:\na.b = c\nStack ARN:\narn:aws:x\nm-x (m-x)\nm-x: deploying... [5/5]\n"
    message = "Parameter 'MaxInstanceCount' must be a whole number\n"
    assert shown(routine + message, io.StringIO()) == "  Parameter 'MaxInstanceCount' must be a whole number\n"


def test_a_terminal_counts_in_place() -> None:
    text = shown(OUTPUT, Terminal())
    assert "\r\x1b[K  modelzone-dev-network  1/3  AWS::EC2::VPC\r\x1b[K  ✅  NetworkStack" in text
