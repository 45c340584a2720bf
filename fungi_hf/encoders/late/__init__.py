"""Late views: the last blocks run again on some of an input's tokens."""
