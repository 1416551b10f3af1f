"""Drawn images: sample folders, grids and the panels that grids are made of."""
