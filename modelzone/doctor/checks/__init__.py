"""The checks of a preflight, one module for each topic."""

from modelzone.doctor.checks import account, images, models, network, quotas, zones
from modelzone.doctor.checks.base import Check, Clients, Context, Kind, Opener, Outcome, Status, outcome_of_error

__all__ = ["KINDS", "Check", "Clients", "Context", "Kind", "Opener", "Outcome", "Status", "outcome_of_error"]

# In the order in which they are shown.
KINDS: tuple[Kind, ...] = (
    *account.KINDS,
    *quotas.KINDS,
    *zones.KINDS,
    *network.KINDS,
    *images.KINDS,
    *models.KINDS,
)
