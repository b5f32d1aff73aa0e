"""The embedded AWS: deploys the real stacks with the real CDK CLI to an emulator on this machine.

``modelzone local up`` is what ``make local`` runs.
"""
