"""OpenAI's API: its requests read strictly, its answers and chunks written."""
