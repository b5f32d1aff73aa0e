"""Says what is wrong: known failures in logs, and what would fail before it is deployed."""
