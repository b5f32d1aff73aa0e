"""The embedded AWS: MiniStack in a process of ours, with what it lacks beside it.

Compile hosts are real in it: an EC2 instance is a folder, Run Command runs scripts there as processes, and what needs
hardware has a stand-in (`modelzone.local.host`). Some things go faster or are left out:

- Step Functions waits, and waits between two tries, a twentieth of the time that a state machine names; its time limit
  is not enforced, and neither it nor X-Ray logs anything. Scheduled rules fire in real time, within ten seconds.
- A minute that ``shutdown`` waits is a second; a Spot host ends 30 seconds after its notice was read, not two minutes.
- User data does not run, an instance that was stopped stays stopped, and there are no Session Manager sessions.
- A subscription by e-mail that a stack makes counts as confirmed, and nothing is sent.

Start it with ``python -m modelzone.local.emulator --port PORT --state-dir DIR``. Importing this package imports
nothing of MiniStack: its modules read the environment while they load, so
:func:`modelzone.local.emulator.environment.prepare` has to run first.
"""
