"""Programs that run inside the serving container, where only its own packages are."""
