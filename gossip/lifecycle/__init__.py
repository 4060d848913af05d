"""How members come, go and change: join, leave, names, flap damping, and every update of the member table."""
