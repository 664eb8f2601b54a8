"""Building tag libraries from comments."""

from tmcr.tags.building.llm import Endpoint, Estimate
from tmcr.tags.building.pipeline import Build, BuildOptions, Built

__all__ = ["Build", "BuildOptions", "Built", "Endpoint", "Estimate"]
