"""Dense retrieval: encoders and indexes of their vectors."""
