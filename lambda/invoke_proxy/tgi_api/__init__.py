"""Text Generation Inference's API: its requests read strictly, its answers and events written, for any engine."""
