"""Floor 4: nodes, the backward engine, gradient modes, custom functions, gradient checks."""
