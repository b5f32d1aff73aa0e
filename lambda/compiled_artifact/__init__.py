"""Artifacts and the way to them: the functions behind a deployment's custom resources and the compile state machine.

- `handler`: the check that lets a deployment go on only with a complete artifact that fits.
- `waiting`: custom resources that start a compilation, or join one, and wait for it in windows of an hour.
- `shutdown`: ends hosts and executions when the compile stack is deleted.
- `steps`: what the state machine does, one step a call, and how hosts end that nobody ended.
"""
