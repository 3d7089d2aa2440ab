"""The same fleets on a Ray cluster."""
