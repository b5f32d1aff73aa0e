"""Modelzone's plain library: settings, engines, plans and artifacts. It imports neither the CDK nor boto3."""
