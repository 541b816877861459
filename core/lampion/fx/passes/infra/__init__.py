"""How passes are written and run. Floor 7; imports fx."""
