"""Many policies with scripted or simulated engines: the share of their time that rewriting uses, the driver's load."""
