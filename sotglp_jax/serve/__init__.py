"""A trained classifier behind HTTP: a page for people, and one request for programs."""
