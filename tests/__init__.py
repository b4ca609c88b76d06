"""A package, so that one of the same name among installed packages cannot take its place."""
