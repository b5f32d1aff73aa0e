"""API Gateway's authorizer: finds out from a token whose a request is. Needs nothing but Lambda's own boto3.

- `tokens`: what a token looks like, and where a request carries it.
- `records`: what the table says about a key, kept in memory for a while.
- `handler`: the entry point, and what API Gateway is told.
"""
