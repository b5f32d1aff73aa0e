"""The checks of a preflight, one module for each topic."""

from modelzone.doctor.checks import account, endpoints, images, models, network, quotas, stacks, zones
from modelzone.doctor.checks.base import (
    DEFAULT_QUALIFIER,
    Check,
    Clients,
    Context,
    Kind,
    Opener,
    Outcome,
    Status,
)
from modelzone.doctor.checks.errors import outcome_of_error

__all__ = [
    "DEFAULT_QUALIFIER",
    "KINDS",
    "Check",
    "Clients",
    "Context",
    "Kind",
    "Opener",
    "Outcome",
    "Status",
    "outcome_of_error",
]

# In the order in which they are shown.
KINDS: tuple[Kind, ...] = (
    *account.KINDS,
    *stacks.KINDS,
    *quotas.KINDS,
    *zones.KINDS,
    *network.KINDS,
    *endpoints.KINDS,
    *images.KINDS,
    *models.KINDS,
)
