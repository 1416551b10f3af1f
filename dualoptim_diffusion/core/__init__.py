"""Plain Python that everything else stands on: errors, names, recipes, rates. No torch here."""
