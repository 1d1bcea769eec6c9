"""The studies, a file each, and `common`, which makes their configurations."""
