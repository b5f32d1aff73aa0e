"""The operator's side of compiling: start, follow and cancel compilations, read their logs, keep a debugging host.

Modules here take boto3 clients and print nothing; ``modelzone.cli`` shows what they find.
"""
