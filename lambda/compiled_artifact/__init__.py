"""Custom resource: a deployment may go on only if its compiled artifact exists and fits."""
