"""The engine on servers with OpenAI's routes."""
