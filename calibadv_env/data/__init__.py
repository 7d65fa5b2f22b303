"""Tasks, datasets and the registry that turns them into environment ids."""
