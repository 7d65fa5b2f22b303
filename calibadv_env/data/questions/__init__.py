"""Questions of other people's records: their keys, answers, evidence and paragraphs."""
