"""The verbs, one file each with a function ``add_to`` that ``modelzone.cli.app`` calls."""
