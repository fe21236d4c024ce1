"""The chaos suite: real processes under steady load, what is done to them, and what callers see of it."""
