"""From the checkout to a digest that a Deployment may run: built, scanned, signed, verified."""
