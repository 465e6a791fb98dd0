"""Many policies at once, simulated: how much of their engines' time rewriting uses, and what it costs the driver."""
