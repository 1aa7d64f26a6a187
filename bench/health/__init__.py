"""How fast a fault becomes a verdict, a cordon and the next step."""
