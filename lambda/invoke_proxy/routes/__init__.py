"""The routes of the gateway: OpenAI's, Text Generation Inference's, SageMaker's, and those about the gateway itself."""

from __future__ import annotations

from .about import about_routes
from .invocations import invocations_routes
from .openai import openai_routes
from .tgi import tgi_routes

__all__ = ["about_routes", "invocations_routes", "openai_routes", "tgi_routes"]
