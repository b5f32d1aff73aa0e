"""The states of a compilation and how they follow one another."""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks
from constructs import Construct

__all__ = ["CompileStates"]

# An error of the functions that may go away by itself, and the one of EC2 having no such instance just now.
_TRANSIENT = "TransientError"
_NO_CAPACITY = "CapacityError"
_AGENT_PAUSE = Duration.seconds(10)
_JOB_PAUSE = Duration.seconds(20)


class CompileStates:
    """The definition: every task of the way leads to the end of the host when it fails, and from there to one message.

    Attributes
    ----------
    start
        The first state.
    """

    def __init__(self, scope: Construct, function: lambda_.IFunction) -> None:
        self._scope, self._function = scope, function
        failed = self._failure_path()
        look = self._task("Look", "look")
        start_host = self._task("StartHost", "start-host")
        agent = self._task("WaitForAgent", "wait-for-agent")
        run, follow = self._task("Run", "run"), self._task("Follow", "follow")
        verify, register = self._task("Verify", "verify"), self._task("Register", "register")
        stop_interrupted = self._task("StopInterruptedHost", "stop-host")
        stop, notify = self._task("StopHost", "stop-host"), self._task("Notify", "notify")
        # 31 minutes in all.
        start_host.add_retry(errors=[_NO_CAPACITY], interval=Duration.seconds(60), backoff_rate=2, max_attempts=5)
        for task in (look, start_host, agent, run, follow, stop_interrupted, verify, register, stop, notify):
            task.add_catch(failed, errors=["States.ALL"], result_path="$.failure")
        agent_pause = sfn.Wait(scope, "AgentPause", time=sfn.WaitTime.duration(_AGENT_PAUSE)).next(agent)
        job_pause = sfn.Wait(scope, "JobPause", time=sfn.WaitTime.duration(_JOB_PAUSE)).next(follow)
        look.next(
            sfn.Choice(scope, "IsPublished")
            .when(sfn.Condition.boolean_equals("$.published", value=True), register)
            .otherwise(start_host)
        )
        start_host.next(agent)
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
        stop, notify = self._task("StopFailedHost", "stop-host"), self._task("NotifyFailure", "notify")
        stop.add_catch(notify, errors=["States.ALL"], result_path="$.stop_failure")
        unannounced = sfn.Fail(self._scope, "FailedUnannounced", error="CompileFailed", cause_path="$.failure.Cause")
        notify.add_catch(unannounced, errors=["States.ALL"], result_path="$.notify_failure")
        stop.next(notify)
        notify.next(sfn.Fail(self._scope, "Failed", error="CompileFailed", cause_path="$.failure.message"))
        return stop

    def _task(self, state: str, step: str) -> tasks.LambdaInvoke:
        task = tasks.LambdaInvoke(
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
            retry_on_service_exceptions=False,
        )
        task.add_retry(
            errors=[
                "Lambda.ServiceException",
                "Lambda.AWSLambdaException",
                "Lambda.SdkClientException",
                "Lambda.TooManyRequestsException",
                _TRANSIENT,
            ],
            interval=Duration.seconds(2),
            backoff_rate=2,
            max_attempts=6,
        )
        return task
