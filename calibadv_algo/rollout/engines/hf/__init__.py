"""The engine on Hugging Face models."""
