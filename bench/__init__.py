"""How fast production is planned and made, and what holds it up: `make bench`, never a test."""
