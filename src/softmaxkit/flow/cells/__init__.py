"""Standard cells: timing, power and area, from bundled tables or from Liberty files."""
