"""Standard cells: their figures, from tables that come with the package or from Liberty files."""
