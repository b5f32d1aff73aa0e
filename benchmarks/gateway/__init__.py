"""The gateway's proxy beside LiteLLM's and beside the field's common shape; see `__main__`."""
