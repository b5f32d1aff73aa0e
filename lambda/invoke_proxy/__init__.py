"""Invoke proxy: OpenAI and TGI routes in front of the environment's SageMaker endpoints."""
