"""What deployments cost. Prices come from `modelzone.prices`; what has none is reported, never guessed or dropped."""

from modelzone.costs.adapters import AdapterCost, adapter_cost
from modelzone.costs.compare import Alternative, cheapest_of_each_kind, compare
from modelzone.costs.compilation import CompileCost, compile_cost
from modelzone.costs.environment import CostLine, EnvironmentCosts, environment_costs
from modelzone.costs.text import markdown, monthly_line
from modelzone.costs.tokens import Measurement, measurements

__all__ = [
    "AdapterCost",
    "Alternative",
    "CompileCost",
    "CostLine",
    "EnvironmentCosts",
    "Measurement",
    "adapter_cost",
    "cheapest_of_each_kind",
    "compare",
    "compile_cost",
    "environment_costs",
    "markdown",
    "measurements",
    "monthly_line",
]
