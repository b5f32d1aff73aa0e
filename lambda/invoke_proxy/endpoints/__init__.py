"""Calls to SageMaker endpoints: whole answers and streams, waiting, hedging, and failures in HTTP's words."""
