"""Credit: the correctness of every turn of a group."""
