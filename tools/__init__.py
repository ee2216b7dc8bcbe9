"""Tools of the repository: notebooks from sources, checks of pages, portability."""
