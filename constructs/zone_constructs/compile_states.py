"""The states of a compilation and how they follow one another."""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

import math

from aws_cdk import Duration
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks
from constructs import Construct

__all__ = ["CompileStates"]

# An error of the functions that may go away by itself; the one of EC2 having no such instance just now; and the one of
# another execution making the same artifact.
_TRANSIENT = "TransientError"
_NO_CAPACITY = "CapacityError"
_BUSY = "BusyError"
_BUSY_PAUSE = Duration.seconds(60)
_INVOCATION_ERRORS = [
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.TooManyRequestsException",
]
# The function was cut off, so it may have done its work: for steps that do no harm when they are done twice.
_CUT_OFF_ERRORS = ["Lambda.Unknown", "Sandbox.Timedout", "States.Timeout"]
_AGENT_PAUSE = Duration.seconds(10)
_JOB_PAUSE = Duration.seconds(20)
# An execution's history holds 25,000 events; the rest is for everything but following, retries among it.
_MOST_FOLLOWING_EVENTS = 20_000
# Entering and leaving of pause, task and choice, and what the task makes in between.
_EVENTS_OF_A_ROUND = 9
# What Step Functions needs around the function's own time.
_TASK_MARGIN_SECONDS = 15


class CompileStates:
    """The definition: every task of the way leads to the end of the host when it fails, and from there to one message.

    Attributes
    ----------
    start
        The first state.
    """

    def __init__(
        self,
        scope: Construct,
        function: lambda_.IFunction,
        *,
        function_timeout: Duration,
        timeout: Duration,
        max_hours: int,
    ) -> None:
        self._scope, self._function = scope, function
        self._task_timeout = Duration.seconds(int(function_timeout.to_seconds()) + _TASK_MARGIN_SECONDS)
        failed = self._failure_path()
        look = self._task("Look", "look")
        start_host = self._task("StartHost", "start-host")
        agent = self._repeatable_task("WaitForAgent", "wait-for-agent")
        run = self._repeatable_task("Run", "run")
        # A host may compile for hours while AWS has trouble: half an hour of it is waited out.
        follow = self._repeatable_task("Follow", "follow", max_attempts=30, max_delay=Duration.seconds(60))
        verify, register = self._repeatable_task("Verify", "verify"), self._repeatable_task("Register", "register")
        stop_interrupted = self._repeatable_task("StopInterruptedHost", "stop-host")
        stop, notify = self._repeatable_task("StopHost", "stop-host"), self._task("Notify", "notify")
        # As long as the other one may take.
        start_host.add_retry(errors=[_BUSY], interval=_BUSY_PAUSE, backoff_rate=1, max_attempts=max_hours * 60)
        # 31 minutes in all.
        start_host.add_retry(errors=[_NO_CAPACITY], interval=Duration.seconds(60), backoff_rate=2, max_attempts=5)
        for task in (look, start_host, agent, run, follow, stop_interrupted, verify, register, stop, notify):
            task.add_catch(failed, errors=["States.ALL"], result_path="$.failure")
        agent_pause = sfn.Wait(scope, "AgentPause", time=sfn.WaitTime.duration(_AGENT_PAUSE)).next(agent)
        job_pause = sfn.Wait(scope, "JobPause", time=sfn.WaitTime.duration(_job_pause(timeout))).next(follow)
        look.next(
            sfn.Choice(scope, "IsPublished")
            .when(sfn.Condition.boolean_equals("$.published", value=True), register)
            .otherwise(start_host)
        )
        start_host.next(
            # By an execution that this one has waited for.
            sfn.Choice(scope, "WasPublishedMeanwhile")
            .when(sfn.Condition.boolean_equals("$.published", value=True), register)
            .otherwise(agent)
        )
        agent.next(
            sfn.Choice(scope, "IsAgentOnline")
            .when(sfn.Condition.string_equals("$.agent", "online"), run)
            .otherwise(agent_pause)
        )
        run.next(job_pause)
        follow.next(
            sfn.Choice(scope, "HasJobEnded")
            .when(sfn.Condition.string_equals("$.run", "succeeded"), verify)
            .when(sfn.Condition.string_equals("$.run", "interrupted"), stop_interrupted)
            .otherwise(job_pause)
        )
        stop_interrupted.next(start_host)
        verify.next(register)
        register.next(stop)
        stop.next(notify)
        notify.next(sfn.Succeed(scope, "Done", output_path="$.output"))
        self.start = look

    def _failure_path(self) -> tasks.LambdaInvoke:
        stop, notify = self._repeatable_task("StopFailedHost", "stop-host"), self._task("NotifyFailure", "notify")
        stop.add_catch(notify, errors=["States.ALL"], result_path="$.stop_failure")
        unannounced = sfn.Fail(self._scope, "FailedUnannounced", error="CompileFailed", cause_path="$.failure.Cause")
        notify.add_catch(unannounced, errors=["States.ALL"], result_path="$.notify_failure")
        stop.next(notify)
        notify.next(sfn.Fail(self._scope, "Failed", error="CompileFailed", cause_path="$.failure.message"))
        return stop

    def _task(self, state: str, step: str) -> tasks.LambdaInvoke:
        """A step that is tried again only when it is known to have done nothing."""
        task = self._invoke(state, step)
        _try_again(task, [*_INVOCATION_ERRORS, _TRANSIENT])
        return task

    def _repeatable_task(
        self, state: str, step: str, *, max_attempts: int = 6, max_delay: Duration | None = None
    ) -> tasks.LambdaInvoke:
        """A step that may be done twice."""
        task = self._invoke(state, step)
        errors = [*_INVOCATION_ERRORS, _TRANSIENT, *_CUT_OFF_ERRORS]
        _try_again(task, errors, max_attempts=max_attempts, max_delay=max_delay)
        return task

    def _invoke(self, state: str, step: str) -> tasks.LambdaInvoke:
        return tasks.LambdaInvoke(
            self._scope,
            state,
            lambda_function=self._function,
            payload=sfn.TaskInput.from_object(
                {
                    "step": step,
                    "execution": {
                        "id": sfn.JsonPath.execution_id,
                        "name": sfn.JsonPath.execution_name,
                        "start": sfn.JsonPath.execution_start_time,
                    },
                    "state": sfn.JsonPath.entire_payload,
                }
            ),
            output_path="$.Payload",
            task_timeout=sfn.Timeout.duration(self._task_timeout),
            retry_on_service_exceptions=False,
        )


def _job_pause(timeout: Duration) -> Duration:
    """As long as it has to be, so that following for the whole time of an execution fits into its history."""
    rounds = _MOST_FOLLOWING_EVENTS // _EVENTS_OF_A_ROUND
    return Duration.seconds(max(_JOB_PAUSE.to_seconds(), math.ceil(timeout.to_seconds() / rounds)))


def _try_again(
    task: tasks.LambdaInvoke, errors: list[str], *, max_attempts: int = 6, max_delay: Duration | None = None
) -> None:
    task.add_retry(
        errors=errors,
        interval=Duration.seconds(2),
        backoff_rate=2,
        max_attempts=max_attempts,
        max_delay=max_delay,
    )
