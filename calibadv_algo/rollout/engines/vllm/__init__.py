"""The engine on vLLM, in process and as a server."""
